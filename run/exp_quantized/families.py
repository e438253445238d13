"""Llama 3 in the formats that speculative decoding of quantized models is measured on.

The checkpoints are their makers' own; `--model` names another of the same model. Settings are those of such
measurements: greedy, 2048 tokens, trees of 60 nodes at most.
"""

from pathlib import Path

from specdecodes.config import Memory, Pipeline, Target, Tree

ASSETS = Path(__file__).resolve().parents[2] / "assets"

LLAMA3_8B = {
    "fp16": "meta-llama/Meta-Llama-3-8B-Instruct",
    "w4a16": "TechxGenus/Meta-Llama-3-8B-Instruct-GPTQ",
    "w4a8_qqq": "HandH1998/QQQ-Llama-3-8b",
    "w4a8_qqq_g128": "HandH1998/QQQ-Llama-3-8b-g128",
    "w4a8_qoq": "mit-han-lab/Llama-3-8B-Instruct-QServe",
    "w4a8_qoq_g128": "mit-han-lab/Llama-3-8B-Instruct-QServe-g128",
    "w8a8": "neuralmagic/Meta-Llama-3-8B-Instruct-quantized.w8a8",
}
LLAMA3_70B = {"w4a16": "TechxGenus/Meta-Llama-3-70B-Instruct-GPTQ"}
DEMO = {"w4a16": str(ASSETS / "demo-w4a16")}  # benchmarks/quantize_demo.py writes it


def baseline(model: str, device_memory: str) -> Pipeline:
    """Plain decoding of a checkpoint in its own precision."""
    tree = Tree(width=10, depth=6, nodes=60)
    return Pipeline(method="vanilla", target=Target(model), tree=tree, memory=Memory(device=device_memory), warmup=3)
