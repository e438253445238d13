"""Benchmarks: questions asked the same way of every method, and what was measured.

`questions` are asked by `runner.py`, which leaves `results`; `sweeps` does so over many settings, and `report` makes
pages of what was found.
"""
