"""Plain decoding of Llama-3-8B-Instruct in 4 bits (GPTQ)."""

from run.exp_quantized.families import LLAMA3_8B, baseline

pipeline = baseline(LLAMA3_8B["w4a16"])
