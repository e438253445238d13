"""Share-SD on the bundled demo model: 4-bit weights draft for their bf16 originals, all of it resident."""

from run.exp_offloading.families import DEMO
from run.exp_shared.families import share

pipeline = share(DEMO, draft="int4", device_memory="512MiB")
