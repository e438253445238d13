"""N-gram drafting on Qwen2.5-7B-Instruct in 8 GiB of device memory."""

from run.exp_offloading.families import QWEN_7B, ngram

pipeline = ngram(QWEN_7B)
