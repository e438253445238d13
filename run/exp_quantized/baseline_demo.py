"""Plain decoding of the bundled demo model in 4 bits."""

from run.exp_quantized.families import DEMO, baseline

pipeline = baseline(DEMO)
