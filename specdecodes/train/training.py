"""One training run of an EAGLE head: its settings, its steps, what it judges and keeps, and what it reports."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from specdecodes.errors import NumericsError
from specdecodes.models.eagle import EAGLE
from specdecodes.models.eagle_files import save_head
from specdecodes.models.loading import Checkpoint
from specdecodes.notify import Notify
from specdecodes.train.acceptance import head_acceptance, ngram_acceptance, spoken
from specdecodes.train.checkpoints import Checkpoints, Progressed
from specdecodes.train.curve import Curve, read_curve
from specdecodes.train.data_gen.shards import StoredConversations
from specdecodes.train.examples import Split, epoch_batches, loaded
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


class HeadRun:
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

    def to_the_end(self, notify: Notify) -> HeadReport:
        plan, main = self.plan, self.accelerator.is_main_process
        resumed = self.checkpoints.load(
            {**asdict(plan), "data": self.stored.settings, "conversations": len(self.stored)}
        )
        quiet: Notify = notify if main else lambda text: None
        curve = Curve(plan.run, self.progress.step, quiet) if main else None
        if resumed:
            quiet(f"going on from step {self.progress.step} in {plan.run}")
        else:
            self._judge(curve, quiet)
        if not self.progress.ended:
            self._learn(curve, quiet)
        return self._finish(quiet)

    def _learn(self, curve: Curve | None, notify: Notify) -> None:
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
                    self._judge(curve, notify)
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

    def _judge(self, curve: Curve | None, notify: Notify) -> None:
        """Measure acceptance, keep the head if it is the best so far, and write a checkpoint."""
        rates = head_acceptance(self.loss, self.stored, self._held(), self.plan.depth, self.accelerator)
        tau, step = sum(rates), self.progress.step
        if curve is not None:
            curve.add(step, acceptance=rates, tau=tau)
        notify(f"step {step}: {tau:.3f} of {self.plan.depth} accepted; by depth {spoken(rates)}")
        if self.progress.judged(rates, self.plan.patience) and self.accelerator.is_main_process:
            save_head(self.plan.run / "best", self.fields, self.loss.head.tensors(self.target.dtype), self.target.spec)
        self.progress.ended = self.progress.ended or step == len(self.batches)
        self.checkpoints.save()

    def _held(self) -> list[list[int]]:
        """The held-out conversations in batches, of equal length as far as may be."""
        order, size = sorted(self.split.held, key=lambda index: self.stored.lengths[index]), self.plan.batch_size
        return [order[start : start + size] for start in range(0, len(order), size)]

    def _finish(self, notify: Notify) -> HeadReport:
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
            notify(f"untrained head: {sum(first):.3f} accepted; by depth {spoken(first)}")
            notify(f"n-grams:        {sum(ngram):.3f} accepted; by depth {spoken(ngram)}")
            notify(f"this head:      {sum(report.acceptance):.3f} accepted; by depth {spoken(report.acceptance)}")
            notify(f"{plan.out}: the head of step {progress.best_step}")
        self.accelerator.end_training()
        return report
