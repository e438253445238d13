"""Targets that come quantized: plain decoding of each format, for other methods to be measured against."""
