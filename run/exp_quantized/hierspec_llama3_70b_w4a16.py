"""Llama-3-70B-Instruct in 4 bits (GPTQ) checks the chains of the 8B model in 4 bits, drafted by its EAGLE head."""

from run.exp_quantized.families import LLAMA3_70B, hierspec

pipeline = hierspec(LLAMA3_70B["w4a16"])
