"""What an experiment is: frozen data, checked when it is built, changed only by making a new value.

A pipeline module holds one `Pipeline`; `--set key.path=value` is the only layer above it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints

from specdecodes.errors import ConfigError, suggest
from specdecodes.quant.spec import FULL, Rules
from specdecodes.sampling import SamplingParams
from specdecodes.units import parse_bytes
from specdecodes.values import read_value

DTYPES = ("auto", "bf16", "fp16", "fp32")
COMPRESS = ("auto", "on", "alone", "off")
KV = ("auto", "int8")
MOST_NODES = 4096
"""Nodes of a verified tree; what masks take grows with the square."""
MOST_DRAFTED = 16384
"""Nodes that a draft may see before the best of them are kept."""


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(rule)


@dataclass(frozen=True)
class Target:
    """The model whose answers are wanted: a hub id or a folder, run in its own dtype unless told otherwise.

    `quant` says which of its linears are quantized and how, in the words of `quant.spec`: `none`, `int8`,
    `hqq4:g128+down_proj=hqq8`. Such a target is resident, and its own plain decoding is what drafts must equal. A
    checkpoint that was quantized elsewhere is taken as it is, on the kernel that suits it, or with `@reference` on the
    one that is correct everywhere.
    """

    model: str
    dtype: str = "auto"
    device: str = "auto"
    revision: str | None = None
    quant: str = FULL

    def __post_init__(self) -> None:
        _require(bool(self.model.strip()), "target.model is empty; give a hub id or the path of a checkpoint folder.")
        _require(self.dtype in DTYPES, suggest("target.dtype", self.dtype, DTYPES))
        _require(bool(self.device), "target.device is empty; write auto, cpu or cuda.")
        Rules.parse(FULL if self.kernel else self.quant)

    @property
    def kernel(self) -> str:
        """The kernel that `quant` asks for a checkpoint's own codes; mostly empty."""
        return self.quant[1:] if self.quant.startswith("@") else ""

    @property
    def rules(self) -> Rules:
        """`quant`, taken apart; what the checkpoint itself brings is not in it."""
        return Rules.parse(FULL if self.kernel else self.quant)


@dataclass(frozen=True)
class Draft:
    """Who proposes: a second `model` (for eagle_sd a head), or the target's own weights; quantized as `quant` says.

    `quant` is spelled as the target's; `auto` is hqq4 for the target's own weights and none for a second model.
    `temperature` sharpens (below 1) or flattens the scores by which the draft tree is grown. Of the tree's nodes,
    `ngram` are given to continuations that the text itself suggests, grafted onto what the draft proposes. `kv`: how
    models that only draft keep their keys and values, `auto` in the dtype that they run in, `int8` in half of that.
    """

    model: str | None = None
    quant: str = "auto"
    temperature: float = 0.2
    ngram: int = 0
    kv: str = "auto"

    def __post_init__(self) -> None:
        _require(self.model is None or bool(self.model.strip()), "draft.model is empty; write none or a model.")
        Rules.parse(self.spelled)
        _require(self.temperature > 0, f"draft.temperature must be above 0, not {self.temperature}.")
        _require(self.ngram >= 0, f"draft.ngram must be 0 (none) or more, not {self.ngram}.")
        _require(self.kv in KV, suggest("draft.kv", self.kv, KV))

    @property
    def spelled(self) -> str:
        """`quant` with `auto` spelled out."""
        if self.quant != "auto":
            return self.quant
        return "hqq4" if self.model is None else FULL

    @property
    def rules(self) -> Rules:
        """`quant`, taken apart."""
        return Rules.parse(self.spelled)


@dataclass(frozen=True)
class Tree:
    """The tree of proposals: at most `depth` levels of `width` nodes; one pass verifies `nodes`, root included."""

    width: int = 4
    depth: int = 16
    nodes: int = 64
    adaptive: bool = True

    def __post_init__(self) -> None:
        _require(self.width >= 1, f"tree.width must be 1 or more, not {self.width}.")
        _require(self.depth >= 1, f"tree.depth must be 1 or more, not {self.depth}.")
        _require(self.nodes >= 2, f"tree.nodes must be 2 or more (the root and one proposal), not {self.nodes}.")
        _require(self.nodes <= MOST_NODES, f"tree.nodes must be {MOST_NODES} or less, not {self.nodes}.")
        drafted = self.width * self.depth
        _require(drafted <= MOST_DRAFTED, f"tree.width times tree.depth must be {MOST_DRAFTED} or less, not {drafted}.")


@dataclass(frozen=True)
class Middle:
    """A model between draft and target (hierspec_sd): what it takes of a draft is offered to the target as a chain.

    It decodes by `method` with `tree`, as if it were the target, and with the pipeline's draft as its own, until the
    chain has `min_draft_length` tokens, or more where those pay (the pipeline's `tree.adaptive`, `depth` and `nodes`).
    `quant` is spelled as the target's. With a `middle` of its own (`--set middle.middle=MODEL`) there is a level more.
    """

    model: str | None = None
    quant: str = FULL
    method: str = "ngram_sd"
    tree: Tree = field(default_factory=lambda: Tree(width=4, depth=8, nodes=32))
    min_draft_length: int = 6
    middle: Middle | None = None

    def __post_init__(self) -> None:
        _require(self.model is None or bool(self.model.strip()), "middle.model is empty; write none or a model.")
        _require(bool(self.method), "middle.method is empty; write ngram_sd, eagle_sd, classic_sd or share_sd.")
        least = self.min_draft_length
        _require(least >= 1, f"middle.min_draft_length must be 1 or more, not {least}.")
        Rules.parse(FULL if self.quant.startswith("@") else self.quant)

    @property
    def innermost(self) -> Middle:
        """The one next to the draft."""
        return self if self.middle is None else self.middle.innermost


@dataclass(frozen=True)
class Memory:
    """Budgets such as `8GiB` or a number of bytes; None is what the machine has free.

    `disk` is for copies that are made of a model: its quantized layers, kept for the next start, and compressed ones.
    `compress` streams 16-bit weights losslessly compressed: `auto` where that is faster by measured rates and needs no
    new file, `on` always, writing compressed copies of layers that stream from disk, `off` never. Beside substitutes
    that say most of a weight the copies hold the rest of it; `alone` is `on` with copies that need no substitute.
    `ahead` fetches the first layers of the next pass while drafting, as many as the ring holds. `ring` is its
    slots, each of one layer: more than two are read further ahead, in memory that resident layers would have; none lets
    the plan choose.
    """

    device: str | int | None = None
    host: str | int | None = None
    disk: str | int | None = None
    compress: str = "auto"
    ahead: bool = True
    ring: int | None = None

    def __post_init__(self) -> None:
        _require(self.ring is None or self.ring >= 2, f"memory.ring must be at least 2 slots, not {self.ring}.")
        for name, size in (("device", self.device_bytes), ("host", self.host_bytes), ("disk", self.disk_bytes)):
            _require(size is None or size > 0, f"memory.{name} must be above 0 bytes, not {size}.")
        _require(self.compress in COMPRESS, suggest("memory.compress", self.compress, COMPRESS))

    @property
    def device_bytes(self) -> int | None:
        return None if self.device is None else parse_bytes(self.device)

    @property
    def host_bytes(self) -> int | None:
        return None if self.host is None else parse_bytes(self.host)

    @property
    def disk_bytes(self) -> int | None:
        return None if self.disk is None else parse_bytes(self.disk)


@dataclass(frozen=True)
class Pipeline:
    """One experiment: everything that decides what is computed and where, but for the prompt.

    `max_length` counts prompt and answer. `exact=None` is on when the target is streamed. `seed` decides everything
    random but the tokens (the choice of benchmark samples); the dice of the tokens are `sampling.seed`. `warmup`
    requests are answered before a benchmark's clock starts. A `middle` model is hierspec_sd's alone.
    `graphs`: a GPU replays steps that it has seen before.
    """

    method: str
    target: Target
    draft: Draft = field(default_factory=Draft)
    tree: Tree = field(default_factory=Tree)
    memory: Memory = field(default_factory=Memory)
    sampling: SamplingParams = field(default_factory=SamplingParams)
    middle: Middle = field(default_factory=Middle)
    max_length: int = 2048
    exact: bool | None = None
    compile: bool = True
    graphs: bool = True
    seed: int = 0
    warmup: int = 1

    def __post_init__(self) -> None:
        _require(bool(self.method), "method is empty; name one, such as subspec_sd.")
        _require(self.max_length >= 2, f"max_length must be 2 or more, not {self.max_length}.")
        _require(self.seed >= 0, f"seed must be 0 or more, not {self.seed}.")
        _require(self.warmup >= 0, f"warmup must be 0 or more, not {self.warmup}.")
        drafted = self.tree if self.middle.model is None else self.middle.innermost.tree
        room = drafted.nodes - 2
        _require(self.draft.ngram <= room, f"draft.ngram must leave the draft 2 of tree.nodes: at most {room}.")


def to_dict(pipeline: Pipeline) -> dict[str, Any]:
    """The resolved settings as plain data, ready for JSON."""
    return asdict(pipeline)


def known_keys(pipeline: Pipeline) -> list[str]:
    """Every key that `override` takes, as dotted paths."""
    return list(_leaves(pipeline, ""))


def override(pipeline: Pipeline, key: str, value: object) -> Pipeline:
    """`pipeline` with the setting at dotted `key` changed to `value`; a text is read by the setting's own type.

    Raises ConfigError for a key that does not exist (naming the nearest), a value of another type or out of range.
    """
    return _replaced(pipeline, key.split("."), key, value, pipeline)


def apply_overrides(pipeline: Pipeline, assignments: Iterable[str]) -> Pipeline:
    """`pipeline` after every `key.path=value` in turn; see `override`."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        _require(bool(equals), f"'{assignment}' is no setting; write --set key.path=value, such as tree.depth=8.")
        pipeline = override(pipeline, key.strip(), text.strip())
    return pipeline


def _leaves(section: Any, prefix: str) -> Iterator[str]:
    for spec in fields(section):
        value = getattr(section, spec.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{spec.name}.")
        else:
            yield prefix + spec.name


def _replaced(section: Any, path: list[str], key: str, value: object, pipeline: Pipeline) -> Any:
    name, *rest = path
    inner = getattr(section, name) if name in {spec.name for spec in fields(section)} else None
    if is_dataclass(inner) and rest:
        return replace(section, **{name: _replaced(inner, rest, key, value, pipeline)})
    if key not in known_keys(pipeline):
        raise ConfigError(_unknown(key, known_keys(pipeline)))
    return replace(section, **{name: read_value(value, get_type_hints(type(section))[name], key)})


def _unknown(key: str, keys: list[str]) -> str:
    inside = [known for known in keys if known.startswith(key + ".") or known.endswith("." + key)]
    if inside:
        return f"'{key}' alone is no setting; did you mean {' or '.join(inside)}?"
    return suggest("setting", key, keys)
