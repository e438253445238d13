"""Llama-3-8B-Instruct in 4 bits with 8-bit activations (QoQ), groups of 128, drafted by a 1B model in 4 bits."""

from run.exp_quantized.families import LLAMA3_8B, spec

pipeline = spec(LLAMA3_8B["w4a8_qoq_g128"])
