"""N-gram drafting on Qwen2.5-14B-Instruct in 12 GiB of device memory."""

from run.exp_offloading.families import QWEN_14B, ngram

pipeline = ngram(QWEN_14B)
