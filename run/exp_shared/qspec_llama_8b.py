"""QSpec on Llama-3.1-8B-Instruct: 4-bit weights with one scale for 128 of them, resident in 8 GiB."""

from run.exp_offloading.families import LLAMA_8B
from run.exp_shared.families import qspec

pipeline = qspec(LLAMA_8B, quant="w4a16:g128")
