"""SubSpec on Qwen2.5-7B-Instruct in 8 GiB of device memory, drafted by HIGGS instead of HQQ weights."""

from run.exp_offloading.families import QWEN_7B, subspec

pipeline = subspec(QWEN_7B, quant="higgs4")
