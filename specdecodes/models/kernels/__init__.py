"""Attention and linears in full precision: what decides, and what runs on processors and on CUDA."""
