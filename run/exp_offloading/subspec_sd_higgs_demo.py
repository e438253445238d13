"""SubSpec on the bundled demo model, streamed from disk, drafted by HIGGS instead of HQQ weights."""

from run.exp_offloading.families import DEMO, subspec

pipeline = subspec(DEMO, quant="higgs4")
