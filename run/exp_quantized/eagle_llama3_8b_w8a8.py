"""Llama-3-8B-Instruct in 8 bits with 8-bit activations (SmoothQuant), drafted by an EAGLE head."""

from run.exp_quantized.families import LLAMA3_8B, eagle

pipeline = eagle(LLAMA3_8B["w8a8"])
