"""Trains an EAGLE head on the features that `data_gen.allocation` wrote.

    python -m specdecodes.train.eagle --data DIR --target MODEL --out assets/demo-eagle

`bash train.sh` makes the data first. `accelerate launch -m specdecodes.train.eagle ...` trains on several GPUs. The
same command goes on where it was stopped, with the same losses as if it had not been.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch

from specdecodes.errors import ConfigError, reported
from specdecodes.models.eagle import EAGLE, EagleSpec
from specdecodes.models.loading import Checkpoint, load_tensors, open_checkpoint
from specdecodes.notify import Notify
from specdecodes.train.data_gen.answers import DEMO
from specdecodes.train.data_gen.shards import StoredConversations
from specdecodes.train.examples import Split, draft_vocabulary
from specdecodes.train.head import LearningHead, head_fields
from specdecodes.train.losses import HeadLoss
from specdecodes.train.training import HeadReport, HeadRun, HeadTraining


def train(plan: HeadTraining, notify: Notify = print) -> HeadReport:
    """Train and write the best head to `plan.out`. Raises NumericsError with the step at NaN or infinity."""
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    started = time.monotonic()
    accelerator = Accelerator(mixed_precision=plan.mixed_precision, cpu=plan.cpu)
    stored, target = StoredConversations(plan.data), open_checkpoint(plan.target)
    _check_data(stored, target, plan)
    plan = plan.resolved(stored.settings["architecture"])
    split = Split.of(len(stored), plan.held_out, plan.held_most)
    set_seed(plan.seed)
    loss, fields = build_loss(plan, stored, split, target)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=plan.rate or 0.0, betas=plan.betas)
    model, optimizer = accelerator.prepare(loss, optimizer)
    run = HeadRun(plan, accelerator, stored, split, model, optimizer, fields, target, started)
    return run.to_the_end(notify)


def build_loss(
    plan: HeadTraining, stored: StoredConversations, split: Split, target: Checkpoint
) -> tuple[HeadLoss, dict[str, Any]]:
    """A fresh head with its loss, and the config under which it will be saved."""
    architecture, ids = stored.settings["architecture"], None
    if architecture != EAGLE:
        size = min(plan.draft_vocab_size or 32000, target.spec.vocab_size)
        ids = draft_vocabulary(stored, split.learn, size, target.spec.vocab_size)
    known = None if ids is None else ids.shape[0]
    fields = head_fields(target, architecture, stored.settings["target_layers"], known)
    outer = load_tensors(target.outer(), torch.float32, torch.device("cpu"))
    head = LearningHead(EagleSpec.of(fields, target.spec), ids)
    return HeadLoss(head, outer["embedding"], outer["head.weight"], plan.steps or 1), fields


def _check_data(stored: StoredConversations, target: Checkpoint, plan: HeadTraining) -> None:
    made, spec = stored.settings, target.spec
    if (made["hidden_size"], made["vocab_size"]) != (spec.hidden_size, spec.vocab_size):
        raise ConfigError(f"the data in {plan.data} was made with {made['target']}, not with {plan.target}.")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m specdecodes.train.eagle", description="Train an EAGLE head.")
    add, default = options.add_argument, HeadTraining
    add("--data", type=Path, required=True, help="folder that data_gen.allocation wrote")
    add("--target", default=str(DEMO), help="hub id or folder (default: the demo model)")
    add("--out", type=Path, required=True, help="folder of the head")
    add("--run-dir", type=Path, dest="run", help="folder of log and checkpoints (default: results/train-OUT)")
    add("--epochs", type=int, default=default.epochs, help="passes over the conversations")
    add("--batch-size", type=int, default=default.batch_size, help="conversations, of all processes together")
    add("--rate", type=float, help="learning rate at its highest (default: as published)")
    add("--warmup", type=int, default=default.warmup, help="steps, a tenth of all at most")
    add("--clip", type=float, default=default.clip, help="of the gradient's norm")
    add("--steps", type=int, help="of the unrolled draft (default: 1 for EAGLE-1, 7 for EAGLE-3)")
    add("--noise", type=float, help="on the features (default: 0.2 for EAGLE-1, 0 for EAGLE-3)")
    add("--draft-vocab-size", type=int, help="of an EAGLE-3 head (default: 32000, or all)")
    add("--held-out", type=float, default=default.held_out, help="share of the conversations that judge the head")
    add("--held-most", type=int, default=default.held_most, help="conversations held out at most")
    add("--depth", type=int, default=default.depth, help="of the drafts that it is judged by")
    add("--evaluate-every", type=int, help="steps (default: an epoch)")
    add("--patience", type=int, default=default.patience, help="evaluations without a better one before it ends")
    add("--minutes", type=float, help="end at the first evaluation after that time")
    add("--log-every", type=int, default=default.log_every, help="steps")
    add("--mixed-precision", choices=("no", "bf16", "fp16"), default=default.mixed_precision)
    add("--cpu", action="store_true", help="not on a GPU")
    add("--workers", type=int, default=default.workers, help="processes that read ahead")
    add("--seed", type=int, default=default.seed, help="of weights, order and noise")
    return options


@reported("stopped; the same command goes on from the last evaluation")
def main() -> None:
    """Read the command line and train."""
    given = vars(parser().parse_args())
    given["run"] = given["run"] or Path("results") / f"train-{given['out'].name}"
    train(HeadTraining(**given))


if __name__ == "__main__":
    main()
