"""What a draft precision costs and what it is worth: its size, and how far it is from the target it drafts for.

A scheme is held against the target on a text, token by token, with its own rounding and no other: the target's plain
decoding, with its linears quantized as the draft's would be.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from specdecodes import tables
from specdecodes.benchmark.results.journal import read_json, write_json
from specdecodes.benchmark.sweeps.grid import Point, Row
from specdecodes.config import Pipeline, override
from specdecodes.errors import ConfigError, SpecDecodesError
from specdecodes.likelihood import ScoreRequest
from specdecodes.methods import build
from specdecodes.models.loading import open_checkpoint
from specdecodes.notify import Notify
from specdecodes.quant import SCHEMES, Execution, Rules, fitted, packed_bytes

KEY = "draft.quant"
SHARING = ("share_sd", "subspec_sd")  # methods whose draft is the target's own weights at another precision
HEAD = (
    "draft", "bits/weight", "MiB", "kernel", "tokens/s", "tau", "first", "draft step", "KL", "perplexity", "same token"
)  # fmt: skip
FIDELITY, TABLE, PAGE = "fidelity.json", "precision.json", "precision.md"


@dataclass(frozen=True)
class Fidelity:
    """A draft against its target over `tokens` tokens of a text: the mean divergence of the target's distribution from
    the draft's in nats, perplexities of a token, and the share of places where both find the same token likeliest."""

    tokens: int
    kl: float
    perplexity: float
    target_perplexity: float
    agreement: float


@dataclass(frozen=True)
class Size:
    """Of all layers' linears: bits a weight in the scheme's own format, scales included, and bytes as held here."""

    bits_per_weight: float
    nbytes: int
    kernel: str


def precision_points(pipeline: Pipeline, schemes: Sequence[str]) -> list[Point]:
    """Plain decoding, then the target drafted by itself in each of `schemes` (none: all there are but the target's, in
    groups that its shapes allow).

    Raises ConfigError for an unknown scheme, before anything runs.
    """
    method = pipeline.method if pipeline.method in SHARING else "share_sd"
    names = list(schemes) or _all_schemes(pipeline)
    plain = replace(pipeline, method="vanilla", draft=replace(pipeline.draft, model=None, quant="auto"))
    base = replace(plain, method=method)
    return [
        Point(((KEY, pipeline.target.quant),), plain),
        *(Point(((KEY, name),), override(base, KEY, name)) for name in names),
    ]


def _all_schemes(pipeline: Pipeline) -> list[str]:
    shapes = open_checkpoint(pipeline.target.model, pipeline.target.revision).spec.linears()
    found = [fitted(scheme, shapes) for scheme in SCHEMES.values()]
    return [spelled for spelled in found if spelled != pipeline.target.quant]


def size_of(pipeline: Pipeline, scheme: str) -> Size:
    """The size of the target's linears in `scheme`, as a draft holds them. Raises QuantError for groups that do not
    divide."""
    checkpoint, rules = open_checkpoint(pipeline.target.model, pipeline.target.revision), Rules.parse(scheme)
    shapes, execution = checkpoint.spec.linears(), Execution(rows=pipeline.tree.width)
    bits, weights, nbytes = 0.0, 0, 0
    for index in range(checkpoint.spec.layers):
        layer = f"layers.{index}"
        nbytes += packed_bytes(shapes, rules, execution, layer=layer)
        for path, (out, width) in shapes.items():
            chosen = rules.scheme_of(f"{layer}.{path}")
            bits += out * width * (chosen.bits_per_weight(width) if chosen else 8.0 * checkpoint.dtype.itemsize)
            nbytes += 0 if chosen else out * width * checkpoint.dtype.itemsize
            weights += out * width
    kernels = dict.fromkeys(execution.choose(one).kernel for one in rules.schemes)
    return Size(bits / weights, nbytes, ", ".join(kernels))


def log_probabilities(pipeline: Pipeline, text: str, most: int) -> tuple[Tensor, Tensor]:
    """Of the first `most` tokens of `text` under plain decoding of the target, in windows of the context's length: the
    tokens [n] that have one before them in their window, and log-probabilities [n, vocab] in their places. Raises
    ConfigError for a text of one token."""
    plain = replace(pipeline, method="vanilla", compile=False)
    following: list[int] = []
    rows: list[Tensor] = []
    with build(plain, progress=lambda line: None) as generator:
        tokens, room = generator.tokenizer(text)["input_ids"][:most], generator.context_length
        windows = [tuple(tokens[start : start + room]) for start in range(0, len(tokens), room)]
        if len(tokens) < 2:
            raise ConfigError("a text of one token cannot be scored; give a longer one with --text.")
        for window in windows[:-1] + [last for last in windows[-1:] if len(last) > 1]:
            request = ScoreRequest(window)
            generator.score([request], on_logits=lambda logits: rows.append(logits.float().log_softmax(-1).cpu()))
            following += window[1:]
    return torch.tensor(following), torch.cat(rows)


def compare_precision(following: Tensor, target: Tensor, draft: Tensor) -> Fidelity:
    """Of the tokens `following` [n] under `target` and `draft`, log-probabilities [n, vocab] in their places."""
    divergence = (target.exp() * (target - draft)).sum(-1).clamp(min=0.0)
    return Fidelity(
        tokens=len(following),
        kl=float(divergence.mean()),
        perplexity=math.exp(-float(draft.gather(1, following[:, None]).mean())),
        target_perplexity=math.exp(-float(target.gather(1, following[:, None]).mean())),
        agreement=float((target.argmax(-1) == draft.argmax(-1)).float().mean()),
    )


def fidelities(points: Sequence[Point], text: str, most: int, folder: Path, notify: Notify) -> dict[str, Fidelity]:
    """Of each point's scheme, in its folder under `folder`; what is there already for this text is not made again."""
    known = {point.name: _known(point, text, most, folder) for point in points}
    if all(known.values()):
        return {name: found for name, found in known.items() if found is not None}
    following, target = log_probabilities(points[0].pipeline, text, most)
    for point in points:
        if known[point.name] is not None:
            continue
        scheme = _scheme(point)
        notify(f"{scheme}: {len(following)} tokens against the target")
        quantized = replace(point.pipeline, target=replace(point.pipeline.target, quant=scheme))
        try:
            draft = target if point is points[0] else log_probabilities(quantized, text, most)[1]
        except SpecDecodesError as error:
            notify(f"{scheme}: {error}")
            continue
        found = compare_precision(following, target, draft)
        known[point.name] = found
        (folder / point.name).mkdir(parents=True, exist_ok=True)
        write_json(folder / point.name / FIDELITY, asdict(found) | {"of": _digest(point, text, most)})
    return {name: found for name, found in known.items() if found is not None}


def table_rows(rows: Iterable[Row], found: Mapping[str, Fidelity]) -> list[dict[str, Any]]:
    """One object a scheme, the most bits first; figures that could not be had are None. `first_accepted` is the share
    of drafts whose first token was right: it does not depend on how deep and how often the pace lets a draft be."""
    table = []
    for row in rows:
        fidelity, figures = found.get(row.point.name), row.figures
        content: dict[str, Any] = {"method": row.point.pipeline.method, "scheme": _scheme(row.point)}
        try:
            content |= asdict(size_of(row.point.pipeline, content["scheme"]))
        except SpecDecodesError as error:
            table.append(content | {"error": str(error)})
            continue
        content |= {name: figures.get(name) for name in ("tokens_per_second", "tau", "draft_step_s", "new_tokens")}
        by_depth = figures.get("accepted_by_depth") or [None]
        content |= {"first_accepted": by_depth[0]} | (asdict(fidelity) if fidelity else {})
        table.append(content | {"error": row.error})
    return sorted(table, key=lambda one: -one.get("bits_per_weight", 0.0))


def markdown(table: Sequence[Mapping[str, Any]], about: Sequence[str]) -> str:
    """The table for a page, with the lines of `about` under it."""
    return tables.markdown(HEAD, map(cells, table)) + "\n" + "".join(f"- {line}\n" for line in about)


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row as people read it; empty where there is no figure."""

    def told(name: str, form: str, scale: float = 1.0) -> str:
        value = row.get(name)
        return "" if value is None else format(value * scale, form)

    if "bits_per_weight" not in row:
        return [row["scheme"], *[""] * 9, row["error"]]
    return [
        row["scheme"] + (", plain decoding" if row["method"] == "vanilla" else ""),
        told("bits_per_weight", ".2f"),
        told("nbytes", ".2f", 2.0**-20),
        row["kernel"],
        told("tokens_per_second", ".2f") or row["error"],
        told("tau", ".2f"),
        told("first_accepted", ".1%"),
        told("draft_step_s", ".2f", 1000.0) + " ms" if row.get("draft_step_s") else "",
        told("kl", ".5f"),
        told("perplexity", ".3f"),
        told("agreement", ".1%"),
    ]


def _scheme(point: Point) -> str:
    return str(dict(point.values)[KEY])


def _digest(point: Point, text: str, most: int) -> str:
    """Of all that a fidelity depends on but the code."""
    parts = (asdict(point.pipeline.target), _scheme(point), point.pipeline.max_length, most, text)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _known(point: Point, text: str, most: int, folder: Path) -> Fidelity | None:
    content = read_json(folder / point.name / FIDELITY)
    if content is None or content.pop("of", "") != _digest(point, text, most):
        return None
    return Fidelity(**content)
