"""Fewer bytes for the same bits: the codec, and layers kept compressed beside the checkpoint."""
