"""Plain decoding of the bundled demo model, streamed from disk."""

from run.exp_offloading.families import DEMO

pipeline = DEMO
