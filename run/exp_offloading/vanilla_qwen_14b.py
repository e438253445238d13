"""Plain decoding of Qwen2.5-14B-Instruct in 12 GiB of device memory."""

from run.exp_offloading.families import QWEN_14B

pipeline = QWEN_14B
