"""SubSpec on the bundled demo model, streamed from disk."""

from run.exp_offloading.families import DEMO, subspec

pipeline = subspec(DEMO)
