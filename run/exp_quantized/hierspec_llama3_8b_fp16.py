"""Llama-3-8B-Instruct in half precision checks the chains of a 1B model in 4 bits."""

from run.exp_quantized.families import LLAMA3_8B, hierspec

pipeline = hierspec(LLAMA3_8B["fp16"])
