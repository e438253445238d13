"""The bundled demo model in 4 bits: the text drafts for its sibling, whose chains it checks."""

from run.exp_quantized.families import DEMO, hierspec

pipeline = hierspec(DEMO)
