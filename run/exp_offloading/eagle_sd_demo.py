"""The bundled demo model, streamed from disk, drafted by an EAGLE head of its own."""

from dataclasses import replace

from run.exp_offloading.families import ASSETS, DEMO, eagle

# A narrower tree than a head usually gets, so that it fits in the budget of the other demos.
pipeline = replace(eagle(DEMO, str(ASSETS / "demo-eagle")), tree=replace(DEMO.tree, depth=6))
