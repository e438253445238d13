"""Qwen2.5-32B-Instruct drafted by Qwen2.5-1.5B-Instruct in 24 GiB of device memory."""

from run.exp_offloading.families import QWEN_32B, classic

pipeline = classic(QWEN_32B, "Qwen/Qwen2.5-1.5B-Instruct")
