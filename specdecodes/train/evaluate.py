"""Held-out loss of a trained demo model, as it was saved.

python -m specdecodes.train.evaluate --corpora DIR --model assets/demo
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from specdecodes.train.corpora import Text, epoch, read_corpora, split_held_out
from specdecodes.train.tokenizer import load_tokenizer, render

LENGTH, MOST = 512, 40

Losses = dict[str, dict[str, float]]


@torch.inference_mode()
def held_out_loss(folder: Path, held: Sequence[Text]) -> Losses:
    """Nats per token and per byte, by source and for `all`, over at most MOST sequences of LENGTH tokens a source.

    The held-out documents are told as in training, each once. Weights as saved, sums in fp32.
    """
    tokenizer, model = load_tokenizer(folder), LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums: dict[str, tuple[float, int, int]] = {}
    for source in sorted({text.source for text in held}):
        told = epoch([text for text in held if text.source == source], random.Random(0), {})
        rows = tokenizer([render(document) for document in told], add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([token for row in rows for token in row])
        count = min(MOST, max(1, (len(tokens) - 1) // LENGTH))
        nats, predicted, size = 0.0, 0, 0
        for start in range(0, count * LENGTH, LENGTH):
            row = tokens[start : start + LENGTH + 1]
            logits = model(input_ids=row[None, :-1]).logits[0]
            nats += float(F.cross_entropy(logits, row[1:], reduction="sum"))
            predicted += len(row) - 1
            size += len(tokenizer.decode(row[1:]).encode())
        sums[source] = (nats, predicted, size)
    sums["all"] = (sum(s[0] for s in sums.values()), sum(s[1] for s in sums.values()), sum(s[2] for s in sums.values()))
    return {
        source: {"tokens": count, "nats_per_token": round(nats / count, 4), "nats_per_byte": round(nats / size, 4)}
        for source, (nats, count, size) in sums.items()
    }


def main() -> None:
    """Reads the command line and prints the losses."""
    parser = argparse.ArgumentParser(description="Held-out loss of a trained demo model, as it was saved.")
    parser.add_argument("--corpora", type=Path, required=True, help="folder of the corpora named in the model card")
    parser.add_argument("--model", type=Path, default=Path("assets/demo"), help="folder of the model")
    given = parser.parse_args()
    _, held = split_held_out(read_corpora(given.corpora))
    print(json.dumps(held_out_loss(given.model, held), indent=1))


if __name__ == "__main__":
    main()
