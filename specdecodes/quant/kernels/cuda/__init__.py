"""Kernels for CUDA: two of our own in Triton, how they are cut and tuned, and two optional libraries."""
