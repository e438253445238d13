"""Plain decoding of Llama-3-8B-Instruct in 8 bits with 8-bit activations (SmoothQuant)."""

from run.exp_quantized.families import LLAMA3_8B, baseline

pipeline = baseline(LLAMA3_8B["w8a8"])
