"""Llama-3-8B-Instruct in 8 bits with 8-bit activations (SmoothQuant), drafted by a 1B model in 4 bits."""

from run.exp_quantized.families import LLAMA3_8B, spec

pipeline = spec(LLAMA3_8B["w8a8"])
