"""Llama-3-8B-Instruct in W8A8 (SmoothQuant) checks the chains of a 1B model in 4 bits."""

from run.exp_quantized.families import LLAMA3_8B, hierspec

pipeline = hierspec(LLAMA3_8B["w8a8"])
