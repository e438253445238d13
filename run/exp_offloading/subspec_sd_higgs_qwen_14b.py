"""SubSpec on Qwen2.5-14B-Instruct in 12 GiB of device memory, drafted by HIGGS instead of HQQ weights."""

from run.exp_offloading.families import QWEN_14B, subspec

pipeline = subspec(QWEN_14B, quant="higgs4")
