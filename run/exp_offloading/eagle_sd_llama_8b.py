"""Llama-3.1-8B-Instruct drafted by its published EAGLE head in 8 GiB of device memory."""

from run.exp_offloading.families import LLAMA_8B, eagle

pipeline = eagle(LLAMA_8B, "yuhuili/EAGLE-LLaMA3.1-Instruct-8B")
