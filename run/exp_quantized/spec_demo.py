"""The bundled demo model in 4 bits, drafted by its smaller sibling in 4 bits."""

from run.exp_quantized.families import DEMO, spec

pipeline = spec(DEMO)
