"""The bundled demo model in 4 bits: the text drafts for its sibling, whose chains it checks."""

from dataclasses import replace

from run.exp_quantized.families import DEMO, hierspec

adaptive = hierspec(DEMO)
# At this size plain decoding is faster, and drafting would pause; here it shows what each level accepts.
pipeline = replace(adaptive, tree=replace(adaptive.tree, adaptive=False))
