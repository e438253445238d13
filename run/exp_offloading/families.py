"""The models, drafts and trees that the pipelines of this folder are made of.

Settings are those published for SubSpec: greedy, 2048 tokens, trees of width 6. The published trees verify all
depth x width + 1 nodes; here a pass verifies at most 256, which adaptive depth seldom reaches. Plain decoding has the
same number, because in exact mode it decides how wide every pass is computed: so the methods agree in every bit. No
pipeline says which layers stay resident: the planner fills the memory budget, for the baselines too.
"""

from dataclasses import replace
from pathlib import Path

from specdecodes.config import Draft, Memory, Pipeline, Target, Tree
from specdecodes.sampling import SamplingParams

ASSETS = Path(__file__).resolve().parents[2] / "assets"


def _plain(model: str, device_memory: str) -> Pipeline:
    tree = Tree(width=6, depth=48, nodes=256)
    return Pipeline(method="vanilla", target=Target(model), tree=tree, memory=Memory(device=device_memory))


DEMO = replace(
    _plain(str(ASSETS / "demo"), "30.5MiB"),
    tree=Tree(width=4, depth=16, nodes=64),
    sampling=SamplingParams(repetition_penalty=1.2),  # a model this small falls into loops without one
)
LLAMA_8B = _plain("meta-llama/Llama-3.1-8B-Instruct", "8GiB")
LLAMA2_7B = _plain("meta-llama/Llama-2-7b-chat-hf", "14GiB")
QWEN_7B = _plain("Qwen/Qwen2.5-7B-Instruct", "8GiB")
QWEN_14B = _plain("Qwen/Qwen2.5-14B-Instruct", "12GiB")
QWEN_32B = _plain("Qwen/Qwen2.5-32B-Instruct", "24GiB")


def ngram(base: Pipeline) -> Pipeline:
    """`base`, drafted by what followed the same words earlier in prompt and answer."""
    return replace(base, method="ngram_sd", tree=replace(base.tree, depth=16))


def eagle(base: Pipeline, head: str) -> Pipeline:
    """`base`, drafted by an EAGLE head on its own hidden states."""
    tree = replace(base.tree, width=10, depth=6)
    return replace(base, method="eagle_sd", draft=Draft(head, temperature=1.0), tree=tree, warmup=3)


def subspec(base: Pipeline, quant: str = "hqq4") -> Pipeline:
    """`base`, drafted by the target's own layers in 4 bits."""
    return replace(base, method="subspec_sd", draft=Draft(quant=quant, temperature=0.2), warmup=3)


def classic(base: Pipeline, draft_model: str) -> Pipeline:
    """`base`, drafted by a second, smaller model with the same tokenizer."""
    tree = replace(base.tree, depth=min(base.tree.depth, 32))
    return replace(base, method="classic_sd", draft=Draft(draft_model, temperature=1.0), tree=tree, warmup=3)
