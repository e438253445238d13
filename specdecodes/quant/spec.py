"""Which linear gets which scheme: rules on paths, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from specdecodes.errors import QuantError, suggest

FULL = "none"  # the scheme of a linear that stays in full precision


@dataclass(frozen=True)
class Scheme:
    """A way to put weights on a grid."""

    name: str
    bits: int


SCHEMES = {scheme.name: scheme for scheme in (Scheme("hqq4", bits=4), Scheme("hqq3", bits=3), Scheme("hqq2", bits=2))}


def find_scheme(name: str) -> Scheme:
    """The scheme called `name`; an unknown name raises QuantError with the nearest known one."""
    if name not in SCHEMES:
        raise QuantError(suggest("quantization scheme", name, [*SCHEMES, FULL]))
    return SCHEMES[name]


@dataclass(frozen=True)
class Rules:
    """Patterns over a linear's path inside its layer and their schemes; the first match decides.

    `Rules((("mlp.down_proj", "none"), ("*", "hqq4")))` keeps the down projections in full precision.
    A path that no pattern matches keeps full precision too.
    """

    rules: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        for _, scheme in self.rules:
            if scheme != FULL:
                find_scheme(scheme)

    @classmethod
    def of(cls, scheme: str | Rules) -> Rules:
        """The rules themselves, or one scheme for every linear."""
        return scheme if isinstance(scheme, Rules) else cls((("*", scheme),))

    def scheme_of(self, path: str) -> Scheme | None:
        """The scheme of a linear such as `mlp.up_proj`, or None for full precision."""
        for pattern, name in self.rules:
            if fnmatchcase(path, pattern):
                return None if name == FULL else find_scheme(name)
        return None
