"""Plain decoding of Llama-3-8B-Instruct in 4 bits with 8-bit activations (QQQ), a scale a channel."""

from run.exp_quantized.families import LLAMA3_8B, baseline

pipeline = baseline(LLAMA3_8B["w4a8_qqq"])
