"""Layers of the decoder as one native call on the CPU."""
