"""N-gram drafting on the bundled demo model, streamed from disk."""

from run.exp_offloading.families import DEMO, ngram

pipeline = ngram(DEMO)
