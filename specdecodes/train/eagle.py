"""Trains an EAGLE head on the features that `data_gen.allocation` wrote.

    python -m specdecodes.train.eagle --data DIR --target MODEL --out assets/demo-eagle

`bash train.sh` makes the data first. `accelerate launch -m specdecodes.train.eagle ...` trains on several GPUs. The
same command goes on where it was stopped, with the same losses as if it had not been.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from specdecodes.errors import ConfigError, NumericsError, SpecDecodesError, fail
from specdecodes.models.eagle import EAGLE, EagleSpec
from specdecodes.models.eagle_files import save_head
from specdecodes.models.loading import Checkpoint, load_tensors, open_checkpoint
from specdecodes.train.acceptance import head_acceptance, ngram_acceptance, spoken
from specdecodes.train.checkpoints import Checkpoints, Progressed
from specdecodes.train.curve import Curve, Note, read_curve
from specdecodes.train.data_gen.allocation import DEMO
from specdecodes.train.data_gen.shards import StoredConversations
from specdecodes.train.examples import Split, draft_vocabulary, epoch_batches, loaded
from specdecodes.train.head import LearningHead, head_fields
from specdecodes.train.losses import HeadBatch, HeadLoss, Losses

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class HeadTraining:
    """A training run. None is what was published for the architecture that the data was made for: see `resolved`."""

    data: Path
    target: str
    out: Path
    run: Path  # folder of the log and the checkpoints
    epochs: int = 20
    batch_size: int = 4  # conversations, of all processes together
    rate: float | None = None
    warmup: int = 2000  # steps
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 0.5  # of the gradient's norm
    steps: int | None = None  # of the unrolled draft
    noise: float | None = None  # width of the uniform noise on features at 512 tokens
    draft_vocab_size: int | None = None  # EAGLE-3's; None: 32,000, or all that the target has
    held_out: float = 0.05
    held_most: int = 64
    depth: int = 5  # of the drafts that the head is judged by
    evaluate_every: int | None = None  # steps; None: once an epoch
    patience: int = 3  # evaluations without a better one before it ends
    minutes: float | None = None  # ends at the first evaluation after that time
    log_every: int = 10
    mixed_precision: str = "no"
    cpu: bool = False
    workers: int = 0
    seed: int = 0

    def resolved(self, architecture: str) -> HeadTraining:
        """With the published rate, unrolled steps and noise of `architecture` where none were given."""
        rate, steps, noise = (3e-5, 1, 0.2) if architecture == EAGLE else (5e-5, 7, 0.0)
        given = {"rate": rate, "steps": steps, "noise": noise}
        return HeadTraining(**{**vars(self), **{k: v for k, v in given.items() if vars(self)[k] is None}})


@dataclass(frozen=True)
class HeadReport:
    """What came of a run: draft tokens accepted by depth on held-out conversations, the head's, an untrained one's and
    n-grams'; `best_step` is the step whose head was kept."""

    acceptance: tuple[float, ...]
    untrained: tuple[float, ...]
    ngram: tuple[float, ...]
    steps: int
    best_step: int
    seconds: float


def train(plan: HeadTraining, note: Note = print) -> HeadReport:
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
    run = _Run(plan, accelerator, stored, split, model, optimizer, fields, target, started)
    return run.to_the_end(note)


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


class _Run:
    """The state of one run in one process."""

    def __init__(
        self,
        plan: HeadTraining,
        accelerator: Accelerator,
        stored: StoredConversations,
        split: Split,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        fields: dict[str, Any],
        target: Checkpoint,
        started: float,
    ) -> None:
        self.plan, self.accelerator, self.stored, self.split = plan, accelerator, stored, split
        self.model, self.optimizer, self.fields, self.target = model, optimizer, fields, target
        self.started, self.progress = started, Progressed()
        self.checkpoints = Checkpoints(plan.run, accelerator, self.progress)
        epochs = range(plan.epochs)
        order = [epoch_batches(split.learn, stored.lengths, plan.batch_size, plan.seed, epoch) for epoch in epochs]
        self.batches = [batch for batches in order for batch in batches]
        self.every = plan.evaluate_every or max(1, len(order[0]))

    @property
    def loss(self) -> HeadLoss:
        return self.accelerator.unwrap_model(self.model)

    def to_the_end(self, note: Note) -> HeadReport:
        plan, main = self.plan, self.accelerator.is_main_process
        resumed = self.checkpoints.load(
            {**asdict(plan), "data": self.stored.settings, "conversations": len(self.stored)}
        )
        quiet: Note = note if main else lambda text: None
        curve = Curve(plan.run, self.progress.step, quiet) if main else None
        if resumed:
            quiet(f"going on from step {self.progress.step} in {plan.run}")
        else:
            self._judge(curve, quiet)
        if not self.progress.ended:
            self._learn(curve, quiet)
        return self._finish(quiet)

    def _learn(self, curve: Curve | None, note: Note) -> None:
        share = slice(self.accelerator.process_index, None, self.accelerator.num_processes)
        mine = [batch[share] or batch[:1] for batch in self.batches[self.progress.step :]]
        batches = enumerate(loaded(self.stored, mine, self.plan.workers), self.progress.step + 1)
        total = len(self.batches)
        with tqdm(total=total, initial=self.progress.step, desc="training", unit="step", disable=None) as bar:
            for step, batch in batches:
                losses = self._step(step, batch)
                bar.update()
                if curve is not None and (step % self.plan.log_every == 0 or step == 1):
                    curve.add(step, **losses, rate=self._rate(step))
                    bar.set_postfix(loss=f"{losses['loss']:.4f}")
                if step % self.every == 0 or step == total:
                    self._judge(curve, note)
                    if self.progress.ended or self._out_of_time():
                        return

    def _step(self, step: int, batch: HeadBatch) -> dict[str, float]:
        """One update; the losses, averaged over the processes. Nothing is updated with a number that is none."""
        batch = batch.to(self.accelerator.device)
        losses: Losses = self.model(batch, self._noise(step, batch))
        parts = torch.stack((losses.total.detach(), losses.feature, losses.token))
        values = self.accelerator.reduce(parts, "mean").tolist()
        self._require_finite(step, "the loss", values[0])
        self.accelerator.backward(losses.total)
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), self.plan.clip))
        if self.plan.mixed_precision != "fp16":  # where the scaler leaves such a step out by itself
            self._require_finite(step, "the gradient", norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.progress.step = step
        return dict(zip(("loss", "feature_loss", "token_loss"), values, strict=True))

    def _require_finite(self, step: int, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise NumericsError(
                f"{what} became {value} at step {step}; nothing was updated with it, and {self.checkpoints.newest()} "
                "holds the last good state. Try a lower --rate, or --mixed-precision no."
            )

    def _rate(self, step: int) -> float:
        """Up in a line over the warm-up, then down in a line to a tenth."""
        warmup = min(self.plan.warmup, len(self.batches) // 10) or 1
        done = (step - warmup) / max(1, len(self.batches) - warmup)
        return (self.plan.rate or 0.0) * min(step / warmup, 1 - 0.9 * max(0.0, done))

    def _noise(self, step: int, batch: HeadBatch) -> Tensor | None:
        """Uniform noise that depends on seed, step and process alone; as published, weaker for longer sequences."""
        if not self.plan.noise:
            return None
        dice = torch.Generator().manual_seed(hash((self.plan.seed, step, self.accelerator.process_index)) % 2**63)
        noise = torch.rand(batch.inputs.shape, generator=dice) - 0.5
        return (noise * (self.plan.noise * 512 / batch.inputs.shape[1])).to(batch.inputs.device)

    def _out_of_time(self) -> bool:
        """Whether any process says so: they have to end together."""
        minutes = (time.monotonic() - self.started) / 60
        over = self.plan.minutes is not None and minutes > self.plan.minutes
        said = torch.tensor(float(over), device=self.accelerator.device)
        return bool(self.accelerator.reduce(said, "sum"))

    def _judge(self, curve: Curve | None, note: Note) -> None:
        """Measure acceptance, keep the head if it is the best so far, and write a checkpoint."""
        rates = head_acceptance(self.loss, self.stored, self._held(), self.plan.depth, self.accelerator)
        tau, step = sum(rates), self.progress.step
        if curve is not None:
            curve.add(step, acceptance=rates, tau=tau)
        note(f"step {step}: {tau:.3f} of {self.plan.depth} accepted; by depth {spoken(rates)}")
        if self.progress.judged(rates, self.plan.patience) and self.accelerator.is_main_process:
            save_head(self.plan.run / "best", self.fields, self.loss.head.tensors(self.target.dtype), self.target.spec)
        self.progress.ended = self.progress.ended or step == len(self.batches)
        self.checkpoints.save()

    def _held(self) -> list[list[int]]:
        """The held-out conversations in batches, of equal length as far as may be."""
        order, size = sorted(self.split.held, key=lambda index: self.stored.lengths[index]), self.plan.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _finish(self, note: Note) -> HeadReport:
        progress, plan = self.progress, self.plan
        log = read_curve(plan.run / "log.jsonl") if self.accelerator.is_main_process else []
        first: list[float] = next((line["acceptance"] for line in log if "acceptance" in line), [])
        seconds = time.monotonic() - self.started
        ngram = ngram_acceptance(self.stored, self.split.held, self.loss.output, plan.depth)
        report = HeadReport(
            tuple(progress.best), tuple(first), tuple(ngram), progress.step, progress.best_step, round(seconds, 1)
        )
        if self.accelerator.is_main_process:
            shutil.copytree(plan.run / "best", plan.out, dirs_exist_ok=True)
            settings = {name: value for name, value in asdict(plan).items() if not isinstance(value, Path)}
            made = {"conversations": len(self.stored), "tokens": sum(self.stored.lengths), **self.stored.settings}
            for told in (settings, made):  # where things lay on this machine is nobody's business
                told |= {name: Path(told[name]).name for name in ("target", "data") if name in told}
            told = {**asdict(report), "settings": settings, "data": made}
            (plan.out / "training.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            note(f"untrained head: {sum(first):.3f} accepted; by depth {spoken(first)}")
            note(f"n-grams:        {sum(ngram):.3f} accepted; by depth {spoken(ngram)}")
            note(f"this head:      {sum(report.acceptance):.3f} accepted; by depth {spoken(report.acceptance)}")
            note(f"{plan.out}: the head of step {progress.best_step}")
        self.accelerator.end_training()
        return report


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


def main() -> None:
    """Read the command line and train."""
    given = vars(parser().parse_args())
    given["run"] = given["run"] or Path("results") / f"train-{given['out'].name}"
    try:
        train(HeadTraining(**given))
    except SpecDecodesError as error:
        fail(error)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last evaluation", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
