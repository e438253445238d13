"""The bundled demo model, streamed from disk, drafted by its smaller sibling."""

from dataclasses import replace

from run.exp_offloading.families import ASSETS, DEMO
from specdecodes.config import Draft, Tree

pipeline = replace(
    DEMO,
    method="classic_sd",
    draft=Draft(str(ASSETS / "demo-draft"), temperature=1.0),
    tree=Tree(width=4, depth=16, nodes=64),
)
