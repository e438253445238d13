"""The bundled demo model, streamed from disk, drafted by an EAGLE head of its own."""

from run.exp_offloading.families import ASSETS, DEMO, eagle

pipeline = eagle(DEMO, str(ASSETS / "demo-eagle"))
