"""Llama-3-8B-Instruct in half precision, drafted by a 1B model in 4 bits."""

from run.exp_quantized.families import LLAMA3_8B, spec

pipeline = spec(LLAMA3_8B["fp16"])
