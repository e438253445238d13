"""Kernels for processors: two of our own, in the C++ beside them, and those of torch and oneDNN."""
