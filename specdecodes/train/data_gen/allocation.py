"""Runs the target over conversations and writes what a head is trained on.

    python -m specdecodes.train.data_gen.allocation --outdir DIR --target MODEL --data FILE-OR-HUB-ID

Without `--target` it is the demo model, and without `--data` the target answers prompts of ours first. Several
processes share the work with `--shard i/n`; under `accelerate launch` (or torchrun) each takes its share and its GPU by
its rank. The same command goes on where it was stopped. The target may be larger than the memory: with
`--device-memory` its layers are streamed, once for every `--pack-tokens` tokens of conversations.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from specdecodes.config import Memory, Pipeline, Target, Tree
from specdecodes.errors import ConfigError, reported
from specdecodes.methods.assembly import LoadedTarget, load_target
from specdecodes.methods.memory.placement import place
from specdecodes.methods.needs import DraftNeeds
from specdecodes.methods.site import Site
from specdecodes.models.eagle import ARCHITECTURES, EAGLE, EAGLE3
from specdecodes.models.loading import Checkpoint, open_checkpoint
from specdecodes.notify import Notify
from specdecodes.offload.storage.store import load_tensor
from specdecodes.train.data_gen.answers import DEMO, AnswerPlan, write_answers
from specdecodes.train.data_gen.conversations import BadRow, Conversation, read_conversations
from specdecodes.train.data_gen.features import FeatureReader
from specdecodes.train.data_gen.mask import MaskedTokens, UnmaskableError, masked
from specdecodes.train.data_gen.shards import ShardWriter, Share

CHUNK = 256  # rows of a pass


@dataclass(frozen=True)
class Allocation:
    """What to read, with which target, and where to put it."""

    outdir: Path
    data: str
    target: str = str(DEMO)
    split: str = "train"
    architecture: str = EAGLE
    target_layers: tuple[int, ...] = ()
    share: Share = Share()
    max_length: int = 2048
    pack_tokens: int = 8192
    shard_tokens: int = 65536
    limit: int | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_memory: str | None = None
    host_memory: str | None = None


def default_layers(layers: int) -> tuple[int, ...]:
    """The states that EAGLE-3 is given of a target of `layers` layers: those that enter layers 2, n/2 and n - 3, as
    published; of a shallow target, where those are not three, the first, the middle and the last that it has."""
    published = (2, layers // 2, layers - 3)
    return published if len(set(published)) == 3 and layers > 5 else (1, layers // 2, layers - 1)


def run(plan: Allocation, progress: Notify = print) -> Counter[str]:
    """Write the features of all rows that are not done yet; returns counts over everything in the process's part."""
    pipeline = Pipeline(
        method="vanilla",
        target=Target(plan.target, plan.dtype, plan.device),
        tree=Tree(nodes=CHUNK),
        memory=Memory(plan.device_memory, plan.host_memory),
        max_length=_pack(plan),
        exact=False,
        compile=False,
    )
    site = Site.of(pipeline)
    placement = place(site, DraftNeeds())
    target = load_target(site, placement, progress, width=CHUNK)
    try:
        writer = ShardWriter(plan.outdir, plan.share, _settings(plan, target), plan.shard_tokens)
        reader = FeatureReader(target, _layers(plan, target))
        _fill(plan, target, writer, reader)
    finally:
        if target.stream is not None:
            target.stream.close()
    return _counts(writer)


def _pack(plan: Allocation) -> int:
    """Tokens of one pass: room for one conversation at least, and no more than the target has positions for."""
    return min(max(plan.pack_tokens, plan.max_length), open_checkpoint(plan.target).spec.max_positions)


def _layers(plan: Allocation, target: LoadedTarget) -> tuple[int, ...]:
    if plan.architecture == EAGLE:
        return ()
    layers = target.decoder.spec.layers
    chosen = plan.target_layers or default_layers(layers)
    if not all(0 <= index <= layers for index in chosen):
        raise ConfigError(f"--target-layers {chosen}: the target has the states 0 to {layers}.")
    return chosen


def _settings(plan: Allocation, target: LoadedTarget) -> dict[str, Any]:
    """All that decides what the shards hold."""
    template = target.tokenizer.chat_template or ""
    return {
        "target": plan.target,
        "weights_sha256": _fingerprint(target.site.checkpoint),
        "dtype": str(target.site.dtype).removeprefix("torch."),
        "data": plan.data,
        "split": plan.split,
        "architecture": plan.architecture,
        "target_layers": list(_layers(plan, target)),
        "hidden_size": target.decoder.spec.hidden_size,
        "vocab_size": target.decoder.spec.vocab_size,
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest(),
        "max_length": plan.max_length,
    }


def _fingerprint(checkpoint: Checkpoint) -> str:
    """Of a small tensor that every training changes: data of an older target is not mixed with a newer one's."""
    norm = load_tensor(checkpoint.spans["model.norm.weight"])
    return hashlib.sha256(norm.float().numpy().tobytes()).hexdigest()


def _fill(plan: Allocation, target: LoadedTarget, writer: ShardWriter, reader: FeatureReader) -> None:
    waiting: list[tuple[int, MaskedTokens]] = []

    def compute() -> None:
        if not waiting:
            return
        features = reader.read([torch.tensor(conversation.tokens) for _, conversation in waiting])
        for (row, conversation), found in zip(waiting, features, strict=True):
            writer.add(row, conversation, found)
        waiting.clear()

    rows = _rows(plan, writer.through)
    for row, conversation in tqdm(rows, desc="conversations", unit="", initial=writer.through, disable=None):
        prepared = _prepare(target.tokenizer, conversation, min(plan.max_length, reader.capacity))
        if isinstance(prepared, BadRow):
            compute()  # rows are written in order
            writer.skip(row, prepared.reason)
            continue
        if sum(len(other.tokens) for _, other in waiting) + len(prepared.tokens) > reader.capacity:
            compute()
        waiting.append((row, prepared))
    compute()
    writer.flush()


def _rows(plan: Allocation, done: int) -> Iterator[tuple[int, Conversation | BadRow]]:
    """This process's rows behind the first `done` of its source, each with its number in the source."""
    rows = enumerate(islice(read_conversations(plan.data, plan.split), plan.limit))
    return ((row, found) for row, found in rows if row >= done and row % plan.share.count == plan.share.index)


def _prepare(tokenizer: Any, conversation: Conversation | BadRow, length: int) -> MaskedTokens | BadRow:
    if isinstance(conversation, BadRow):
        return conversation
    try:
        prepared = masked(tokenizer, conversation).cut(length)
    except UnmaskableError as error:
        return BadRow(str(error))
    return prepared if any(prepared.mask[2:]) else BadRow(f"no answer within {length} tokens")


def _counts(writer: ShardWriter) -> Counter[str]:
    counts: Counter[str] = Counter()
    for shard in writer.shards:
        counts["conversations"] += shard.conversations
        counts["tokens"] += shard.tokens
        counts["answer tokens"] += shard.answer_tokens
        counts.update({f"skipped, {reason}": count for reason, count in shard.skipped.items()})
    return counts


def launched_share(text: str | None) -> tuple[Share, str]:
    """The share that `--shard` or a launcher gives this process, and the device that goes with it."""
    if text is not None or "WORLD_SIZE" not in os.environ:
        return Share.parse(text) if text is not None else Share(), "auto"
    share = Share(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    return share, f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        prog="python -m specdecodes.train.data_gen.allocation",
        description="Run the target over conversations and write what an EAGLE head is trained on.",
    )
    options.add_argument("--outdir", type=Path, required=True, help="folder of the shards")
    options.add_argument("--target", default=Allocation.target, help="hub id or folder (default: the demo model)")
    options.add_argument(
        "--data", help=".json (ShareGPT), .jsonl (messages) or .txt, hub id (default: its own answers)"
    )
    options.add_argument("--split", default=Allocation.split, help="split of a hub dataset")
    options.add_argument("--architecture", default=EAGLE, choices=ARCHITECTURES, help="of the head to be trained")
    options.add_argument(
        "--target-layers", type=int, nargs="+", default=(), help=f"states that {EAGLE3} is given: i enters layer i"
    )
    options.add_argument("--shard", metavar="I/N", help="this process's share; under a launcher its rank says so")
    options.add_argument("--max-length", type=int, default=Allocation.max_length, help="tokens kept of a conversation")
    options.add_argument("--pack-tokens", type=int, default=Allocation.pack_tokens, help="tokens of one pass together")
    options.add_argument("--shard-tokens", type=int, default=Allocation.shard_tokens, help="tokens of a file, about")
    options.add_argument("--limit", type=int, help="read only that many rows")
    options.add_argument("--dtype", default=Allocation.dtype, help="auto (the checkpoint's own), bf16, fp16 or fp32")
    options.add_argument("--device-memory", metavar="SIZE", help="budget of the target: 8GiB")
    options.add_argument("--host-memory", metavar="SIZE", help="budget of RAM beside a GPU")
    return options


def own_answers(outdir: Path, target: str, share: Share) -> str:
    """Conversations in `outdir` that the target had with prompts of ours; it answers those that are missing."""
    plan = AnswerPlan(outdir / "chats.jsonl", target)
    if share.count > 1 and not plan.out.exists():
        raise ConfigError(
            "several processes cannot answer together: run python -m specdecodes.train.data_gen.answers --out "
            f"{plan.out} --target {target} once, then this with --data {plan.out}."
        )
    if share.count == 1:
        write_answers(plan)
    return str(plan.out)


@reported("stopped; the same command goes on")
def main() -> None:
    """Read the command line and write the shards."""
    given = vars(parser().parse_args())
    share, device = launched_share(given.pop("shard"))
    given["target_layers"] = tuple(given["target_layers"])
    given["data"] = given["data"] or own_answers(given["outdir"], given["target"], share)
    for name, count in run(Allocation(**given, share=share, device=device)).items():
        print(f"{count:10,d}  {name}")


if __name__ == "__main__":
    main()
