"""The bundled demo model in 4 bits, drafted by its EAGLE head."""

from run.exp_quantized.families import DEMO, eagle

pipeline = eagle(DEMO)
