"""QSpec on the bundled demo model: its weights in 4 bits, run in two ways, resident."""

from run.exp_offloading.families import DEMO
from run.exp_shared.families import qspec

pipeline = qspec(DEMO, device_memory="512MiB")
