"""Which linear gets which scheme, as one line of text and as plain data.

    hqq4                                            every linear of every layer
    hqq4:g128                                       in groups of 128 weights
    hqq4+down_proj=hqq8+layers.0=none               but for some, the last match deciding
    hqq4@gemlite                                    on a kernel that has to be asked for

A pattern is one or more whole names of a path such as `layers.3.mlp.down_proj`; `*`, `?` and `[0-3]` stand for letters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from specdecodes.errors import QuantError, suggest

FULL = "none"  # the scheme of a linear that stays in full precision


@dataclass(frozen=True)
class Scheme:
    """A way to put weights, and perhaps activations, on a grid.

    `group` weights of a row share a scale (0: all of it) of `scale_bits`, which count a zero-point where there is one.
    `activations` is what a row of inputs is rounded to at every call (empty: nothing). A `rotated` weight is stored
    times a Hadamard matrix, which spreads outliers; its inputs are rotated likewise.
    """

    name: str
    bits: int
    group: int = 64
    scale_bits: int = 32
    activations: str = ""
    rotated: bool = False
    grid: str = ""  # of a checkpoint's own codes, by its name in `grids`: unsolved, and run unrounded
    wide: bool = False  # whether fp16 may not hold those codes' scales
    regroups: bool = True  # whether another group may be asked for
    kernel: str = ""  # that was asked for by name

    def group_of(self, width: int) -> int:
        """Weights that share one scale in a row of `width`."""
        return self.group or width

    def bits_per_weight(self, width: int) -> float:
        """Bits of the format itself, scales included, in rows of `width`."""
        return self.bits + self.scale_bits / self.group_of(width)

    def __str__(self) -> str:
        usual = SCHEMES[self.name].group if self.name in SCHEMES else 0
        group = f":g{self.group}" if self.group != usual else ""
        return self.name + group + (f"@{self.kernel}" if self.kernel else "")


_FORMATS = (
    Scheme("int8", 8, group=0, scale_bits=16),
    Scheme("int4", 4),
    Scheme("fp8", 8, group=0, activations="fp8", regroups=False),
    Scheme("mxfp4", 4, group=32, scale_bits=8, activations="mxfp4", regroups=False),
    Scheme("nvfp4", 4, group=16, scale_bits=8, activations="nvfp4", regroups=False),
    *(Scheme(f"hqq{bits}", bits) for bits in (2, 3, 4, 8)),
    *(Scheme(f"higgs{bits}", bits, scale_bits=16, rotated=True) for bits in (2, 3, 4)),
    Scheme("w4a4", 4, group=0, scale_bits=16, activations="int4", rotated=True),
    Scheme("w4a16", 4, scale_bits=16, rotated=True),
    Scheme("w4a8", 4, activations="int8"),
    Scheme("w8a8", 8, group=0, activations="int8", regroups=False),
)
SCHEMES = {scheme.name: scheme for scheme in _FORMATS}


def find_scheme(text: str) -> Scheme | None:
    """The scheme that `text` spells (`hqq4`, `hqq4:g128`, `hqq4:g128@gemlite`), or None for full precision.

    Raises QuantError with the nearest known name, and for a group that is no number or that the scheme does not take.
    """
    spelled, _, kernel = text.strip().partition("@")
    name, colon, group = spelled.partition(":")
    if text.strip() == FULL:
        return None
    if name not in SCHEMES:
        raise QuantError(suggest("quantization scheme", name, [*SCHEMES, FULL]))
    scheme = replace(SCHEMES[name], kernel=kernel)
    if not colon:
        return scheme
    if not group.startswith("g") or not group[1:].isdecimal() or not int(group[1:]):
        raise QuantError(f"'{text}' is no scheme; write the group as in {name}:g128.")
    if not scheme.regroups:
        whole = f"groups of {scheme.group}" if scheme.group else "one scale for each output"
        raise QuantError(f"'{text}': {name} has {whole}, by definition; write {name} alone.")
    return replace(scheme, group=int(group[1:]))


def fitted(scheme: Scheme, shapes: Mapping[str, tuple[int, int]]) -> str:
    """`scheme` as rules for linears of `shapes`, (out, in) by path: in the largest groups, its own at most, that divide
    all inputs. Linears that no group divides keep full precision."""
    widths = {path: width for path, (_, width) in shapes.items() if width % 8 == 0}
    group = math.gcd(scheme.group, *widths.values())
    if scheme.group and scheme.regroups:
        scheme = replace(scheme, group=group)
    kept = {path.rpartition(".")[2] for path, (_, width) in shapes.items() if width % 8 or width % (scheme.group or 1)}
    return "+".join([str(scheme), *(f"{leaf}={FULL}" for leaf in sorted(kept))])


@dataclass(frozen=True)
class Rules:
    """Patterns over paths such as `layers.3.mlp.down_proj`, and their schemes (None: full precision); the last match
    decides. A path that no pattern matches keeps full precision."""

    rules: tuple[tuple[str, Scheme | None], ...]

    @classmethod
    def parse(cls, text: str) -> Rules:
        """The rules that one line spells; see the head of this file. Raises QuantError."""
        rules = []
        for part in text.split("+"):
            pattern, equals, scheme = part.rpartition("=")
            if equals and not pattern.strip():
                raise QuantError(f"'{part}' names no linear; write it as in down_proj=hqq8.")
            rules.append((pattern.strip() or "*", find_scheme(scheme)))
        return cls(tuple(rules))

    def scheme_of(self, path: str) -> Scheme | None:
        """The scheme of a linear such as `layers.3.mlp.up_proj`, or None for full precision."""
        found = None
        for pattern, scheme in self.rules:
            if _names(pattern, path):
                found = scheme
        return found

    def check(self, paths: Sequence[str]) -> None:
        """Raise QuantError for a pattern that names none of a model's linears, at `paths` such as
        `layers.0.mlp.up_proj`."""
        for pattern, _ in self.rules:
            if not any(_names(pattern, path) for path in paths):
                ends = {".".join(path.split(".")[:2]) for path in (paths[0], paths[-1])}
                known = {name for path in paths for name in path.split(".")[2:]} | ends
                raise QuantError(suggest("linear or layer", pattern, known))

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """All that the rules may give, each once."""
        return tuple(dict.fromkeys(scheme for _, scheme in self.rules if scheme is not None))

    @property
    def weights(self) -> str:
        """The rules as far as weights depend on them: whatever the kernel."""
        plain = [(pattern, scheme and replace(scheme, kernel="")) for pattern, scheme in self.rules]
        return str(Rules(tuple(plain)))

    def __bool__(self) -> bool:
        """Whether anything may be quantized."""
        return bool(self.schemes)

    def __str__(self) -> str:
        return "+".join(
            (f"{pattern}=" if pattern != "*" else "") + str(scheme or FULL) for pattern, scheme in self.rules
        )


def _names(pattern: str, path: str) -> bool:
    return fnmatchcase(f".{path}.", f"*.{pattern}.*")
