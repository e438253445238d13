"""Llama-3.1-8B-Instruct drafted by Llama-3.2-1B-Instruct in 8 GiB of device memory."""

from run.exp_offloading.families import LLAMA_8B, classic

pipeline = classic(LLAMA_8B, "meta-llama/Llama-3.2-1B-Instruct")
