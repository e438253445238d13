"""Llama 3 in the formats that speculative decoding of quantized models is measured on, and who drafts for it.

HierSpec's middle model is the small model of the same pipelines. Where that has a head of its own (the 8B below the
70B), the head drafts for it: three levels and 30 nodes, chains of six tokens at least, as published; else the text.

The checkpoints are their makers' own; `--model` and `--draft-model` name others of the same model. Settings are those
of such measurements (SpecMQuant's): greedy, 2048 tokens; a head's trees of six levels and 60 nodes for the 8B model, of
three and 24 for the 70B one; a small model in 4 bits drafts chains of six. All methods of a model verify at one width,
since in exact mode that decides the arithmetic.

QQQ's checkpoints on the hub are of Llama 3 8B before it was taught to chat; the head and the small model here were made
for Instruct.

QoQ's checkpoints are rotated (and say too little in config.json, see `quant.checkpoints.qoq`), QQQ's if its tool was
asked for it. A head for such a target is converted once, by `run-convert-eagle HEAD OUT --rotation
meta-llama/Meta-Llama-3-8B-Instruct` with the pipeline's own target; here OUT is the folder `heads/llama3_8b_w4a8_qoq`
of the clone.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from specdecodes.config import Draft, Memory, Middle, Pipeline, Target, Tree
from specdecodes.sampling import SamplingParams

ROOT = Path(__file__).resolve().parents[2]
ASSETS, HEADS = ROOT / "assets", ROOT / "heads"
HEAD_8B = "yuhuili/EAGLE-LLaMA3-Instruct-8B"


@dataclass(frozen=True)
class Subject:
    """A target in one precision with its budget, its EAGLE head, and the small model that drafts in 4 bits."""

    target: Target
    device_memory: str
    head: str
    draft: Draft
    tree: Tree = Tree(width=10, depth=6, nodes=60)
    draft_head: str | None = None  # the small model's own
    sampling: SamplingParams = SamplingParams()


def _llama3_8b(model: str, device_memory: str, head: str | Path = HEAD_8B) -> Subject:
    draft = Draft("meta-llama/Llama-3.2-1B-Instruct", quant="hqq4", temperature=1.0)
    return Subject(Target(model), device_memory, str(head), draft)


LLAMA3_8B = {
    "fp16": _llama3_8b("meta-llama/Meta-Llama-3-8B-Instruct", "24GiB"),
    "w4a16": _llama3_8b("TechxGenus/Meta-Llama-3-8B-Instruct-GPTQ", "8GiB"),
    "w4a8_qqq": _llama3_8b("HandH1998/QQQ-Llama-3-8b", "16GiB"),
    "w4a8_qqq_g128": _llama3_8b("HandH1998/QQQ-Llama-3-8b-g128", "16GiB"),
    "w4a8_qoq": _llama3_8b("mit-han-lab/Llama-3-8B-Instruct-QServe", "16GiB", HEADS / "llama3_8b_w4a8_qoq"),
    "w4a8_qoq_g128": _llama3_8b(
        "mit-han-lab/Llama-3-8B-Instruct-QServe-g128", "16GiB", HEADS / "llama3_8b_w4a8_qoq_g128"
    ),
    "w8a8": _llama3_8b("neuralmagic/Meta-Llama-3-8B-Instruct-quantized.w8a8", "16GiB"),
}
LLAMA3_70B = {
    "w4a16": Subject(
        Target("TechxGenus/Meta-Llama-3-70B-Instruct-GPTQ"),
        "48GiB",
        "yuhuili/EAGLE-LLaMA3-Instruct-70B",
        Draft(LLAMA3_8B["w4a16"].target.model, temperature=1.0),
        Tree(width=10, depth=3, nodes=24),
        draft_head=HEAD_8B,
    )
}
DEMO = Subject(
    Target(str(ASSETS / "demo"), quant="hqq4"),  # in 4 bits when it is first run, and from the cache then
    "512MiB",
    str(ASSETS / "demo-eagle"),
    Draft(str(ASSETS / "demo-draft"), quant="hqq4", temperature=1.0),
    sampling=SamplingParams(repetition_penalty=1.2),  # a model this small falls into loops without one
)


def baseline(subject: Subject) -> Pipeline:
    """Plain decoding of a checkpoint in its own precision."""
    return Pipeline(
        method="vanilla",
        target=subject.target,
        tree=subject.tree,
        memory=Memory(device=subject.device_memory),
        sampling=subject.sampling,
        warmup=3,
    )


def eagle(subject: Subject) -> Pipeline:
    """A head on the target's hidden states drafts trees."""
    return replace(baseline(subject), method="eagle_sd", draft=Draft(subject.head, temperature=1.0))


def spec(subject: Subject) -> Pipeline:
    """A small model in 4 bits drafts chains of six."""
    chain = replace(subject.tree, width=1, depth=6)
    return replace(baseline(subject), method="classic_sd", draft=subject.draft, tree=chain)


def hierspec(subject: Subject) -> Pipeline:
    """The small model in 4 bits decodes with a draft of its own, and the target checks its chains."""
    small, head = subject.draft, subject.draft_head
    tree = Tree(width=10, depth=3, nodes=30) if head else Tree(width=4, depth=8, nodes=24)
    middle = Middle(
        small.model, quant=small.spelled, method="eagle_sd" if head else "ngram_sd", tree=tree, min_draft_length=6
    )
    return replace(
        baseline(subject),
        method="hierspec_sd",
        draft=Draft(head, temperature=1.0) if head else Draft(),
        middle=middle,
        tree=replace(subject.tree, width=1, depth=12),
    )
