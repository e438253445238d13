"""SubSpec on Llama-3.1-8B-Instruct in 8 GiB of device memory, drafted by HIGGS instead of HQQ weights."""

from run.exp_offloading.families import LLAMA_8B, subspec

pipeline = subspec(LLAMA_8B, quant="higgs4")
