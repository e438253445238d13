"""Plain decoding of Qwen2.5-32B-Instruct in 24 GiB of device memory."""

from run.exp_offloading.families import QWEN_32B

pipeline = QWEN_32B
