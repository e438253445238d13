"""Weights larger than memory: what lives where (`planning`), where they rest (`storage`), in how many bytes
(`compression`), and how they arrive (`streaming`)."""
