"""Lossless, training-free speculative decoding for models that do not fit in memory."""

__version__ = "0.1.0"
