"""SubSpec on the bundled demo model, streamed from disk."""

from dataclasses import replace

from run.exp_offloading.families import DEMO
from specdecodes.config import Draft, Tree

pipeline = replace(DEMO, method="subspec_sd", draft=Draft(temperature=0.2), tree=Tree(width=4, depth=16, nodes=64))
