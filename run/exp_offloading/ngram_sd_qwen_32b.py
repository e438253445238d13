"""N-gram drafting on Qwen2.5-32B-Instruct in 24 GiB of device memory."""

from run.exp_offloading.families import QWEN_32B, ngram

pipeline = ngram(QWEN_32B)
