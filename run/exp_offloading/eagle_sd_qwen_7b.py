"""Qwen2.5-7B-Instruct drafted by its published EAGLE head in 8 GiB of device memory."""

from run.exp_offloading.families import QWEN_7B, eagle

pipeline = eagle(QWEN_7B, "leptonai/EAGLE-Qwen2.5-7B-Instruct")
