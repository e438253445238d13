"""Plain decoding of Llama-3-70B-Instruct in 4 bits (GPTQ)."""

from run.exp_quantized.families import LLAMA3_70B, baseline

pipeline = baseline(LLAMA3_70B["w4a16"])
