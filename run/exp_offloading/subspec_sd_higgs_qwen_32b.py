"""SubSpec on Qwen2.5-32B-Instruct in 24 GiB of device memory, drafted by HIGGS instead of HQQ weights."""

from run.exp_offloading.families import QWEN_32B, subspec

pipeline = subspec(QWEN_32B, quant="higgs4")
