"""Share-SD on Llama-2-7B-chat: an 8-bit target, drafted by the same weights in 4 bits."""

from run.exp_offloading.families import LLAMA2_7B
from run.exp_shared.families import share

pipeline = share(LLAMA2_7B, target="hqq8:g128", draft="hqq4")
