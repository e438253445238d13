"""Llama-3-8B-Instruct in half precision, drafted by an EAGLE head."""

from run.exp_quantized.families import LLAMA3_8B, eagle

pipeline = eagle(LLAMA3_8B["fp16"])
