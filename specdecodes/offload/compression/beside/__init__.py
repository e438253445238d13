"""Streaming what a 4-bit substitute in memory does not say of the weights it stands for."""
