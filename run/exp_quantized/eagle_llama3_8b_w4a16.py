"""Llama-3-8B-Instruct in 4 bits (GPTQ), drafted by an EAGLE head."""

from run.exp_quantized.families import LLAMA3_8B, eagle

pipeline = eagle(LLAMA3_8B["w4a16"])
