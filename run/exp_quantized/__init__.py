"""Targets that come quantized: plain decoding of each format, and who drafts for it."""
