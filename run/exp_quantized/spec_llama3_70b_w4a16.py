"""Llama-3-70B-Instruct in 4 bits (GPTQ), drafted by Llama-3-8B-Instruct in 4 bits."""

from run.exp_quantized.families import LLAMA3_70B, spec

pipeline = spec(LLAMA3_70B["w4a16"])
