"""The bundled demo model, streamed from disk, drafted by its smaller sibling."""

from run.exp_offloading.families import ASSETS, DEMO, classic

pipeline = classic(DEMO, str(ASSETS / "demo-draft"))
