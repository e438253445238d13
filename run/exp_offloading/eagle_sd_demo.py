"""An EAGLE head that `bash train.sh` trained drafts for the bundled demo model, streamed from disk."""

from dataclasses import replace

from run.exp_offloading.families import ASSETS, DEMO, eagle

# A tree as narrow as the other demos', so that the head fits in their budget.
pipeline = replace(eagle(DEMO, str(ASSETS / "demo-eagle")), tree=replace(DEMO.tree, depth=6))
