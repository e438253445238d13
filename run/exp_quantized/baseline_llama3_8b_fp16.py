"""Plain decoding of Llama-3-8B-Instruct in half precision."""

from run.exp_quantized.families import LLAMA3_8B, baseline

pipeline = baseline(LLAMA3_8B["fp16"])
