"""Qwen2.5-7B-Instruct drafted by Qwen2.5-1.5B-Instruct in 8 GiB of device memory."""

from run.exp_offloading.families import QWEN_7B, classic

pipeline = classic(QWEN_7B, "Qwen/Qwen2.5-1.5B-Instruct")
