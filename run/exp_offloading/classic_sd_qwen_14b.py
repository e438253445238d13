"""Qwen2.5-14B-Instruct drafted by Qwen2.5-1.5B-Instruct in 12 GiB of device memory."""

from run.exp_offloading.families import QWEN_14B, classic

pipeline = classic(QWEN_14B, "Qwen/Qwen2.5-1.5B-Instruct")
