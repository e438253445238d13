"""Linears of few bits, one class a file: for processors, for CUDA, and the reference that both are tested against.

`choice.py` says which of them runs a scheme.
"""
