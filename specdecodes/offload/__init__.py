"""Weights larger than memory: where they rest (`store`), how they arrive (`stream`), what lives where (`plan`)."""
