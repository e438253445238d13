"""Llama-3-8B-Instruct in W4A8 (QQQ, groups of 128) checks the chains of a 1B model in 4 bits."""

from run.exp_quantized.families import LLAMA3_8B, hierspec

pipeline = hierspec(LLAMA3_8B["w4a8_qqq_g128"])
