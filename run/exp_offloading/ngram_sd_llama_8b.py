"""N-gram drafting on Llama-3.1-8B-Instruct in 8 GiB of device memory."""

from run.exp_offloading.families import LLAMA_8B, ngram

pipeline = ngram(LLAMA_8B)
