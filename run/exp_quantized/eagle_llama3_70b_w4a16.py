"""Llama-3-70B-Instruct in 4 bits (GPTQ), drafted by an EAGLE head."""

from run.exp_quantized.families import LLAMA3_70B, eagle

pipeline = eagle(LLAMA3_70B["w4a16"])
