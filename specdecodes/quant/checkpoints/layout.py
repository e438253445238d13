"""What a reader of a quantized checkpoint is: how one linear is stored, and how to come from that to codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from specdecodes.errors import CheckpointError
from specdecodes.quant.codes import Codes
from specdecodes.quant.spec import Scheme

SCALES = (torch.float16, torch.bfloat16, torch.float32)


@dataclass(frozen=True)
class StoredPart:
    """A tensor of a stored linear: its shape, and the dtypes that it may have. `shapes` are others that will do."""

    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...]
    optional: bool = False
    shapes: tuple[tuple[int, ...], ...] = ()


class LinearLayout(Protocol):
    """How one format stores a linear [out, in], by the names of its tensors behind the linear's path."""

    @property
    def marker(self) -> str:
        """The tensor by whose presence a linear is known to be quantized."""
        ...

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        """What runs; `dtypes` are those of the tensors that are there."""
        ...

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        """Every tensor of a linear but its bias. Raises CheckpointError where the format cannot hold the shape."""
        ...

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        """The codes of a linear called `name`. Raises CheckpointError for tensors that contradict the config."""
        ...


@dataclass(frozen=True)
class Fields:
    """A section of a config, read strictly: what is not understood is refused by the name of its field."""

    values: Mapping[str, Any]
    at: str = "quantization_config"

    def one_of(self, name: str, choices: tuple[Any, ...], default: Any = None) -> Any:
        """The value of a field, one of `choices`; `default` where the config does not have it."""
        value = self.values.get(name, default)
        if not any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices):
            known = ", ".join("none" if choice is None else str(choice) for choice in choices)
            raise CheckpointError(f"{self.at}.{name} in config.json is {value!r}; what can be read is {known}.")
        return value

    def group(self, name: str, default: Any = None) -> int:
        """A number of weights that share a scale; -1 and none, which are written for a whole row, as 0."""
        value = self.values.get(name, default)
        if value in (-1, None):
            return 0
        if isinstance(value, bool) or not isinstance(value, int) or value < 8 or value % 8:
            raise CheckpointError(
                f"{self.at}.{name} in config.json is {value!r}; what can be read is -1 and multiples of 8."
            )
        return value

    def four_bits(self, group: int) -> int:
        """The group of weights of 4 bits: `group`, or 0 for one scale a channel; others are refused."""
        self.one_of("wbits" if "wbits" in self.values else "bits", (4,))
        self.one_of("group_size", (-1, None, group))
        return self.group("group_size")

    def section(self, name: str) -> Fields:
        """A field that holds fields."""
        value = self.values.get(name)
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.at}.{name} in config.json is {value!r}, not a table.")
        return Fields(value, f"{self.at}.{name}")

    def unset(self, *names: str) -> None:
        """Refuse fields that would change what is read, if they are set to anything."""
        for name in names:
            if self.values.get(name):
                raise CheckpointError(
                    f"{self.at}.{name} in config.json is {self.values[name]!r}; checkpoints with it are not read."
                )


def groups_of(in_features: int, group: int, field: str) -> int:
    """Groups in a row. Raises CheckpointError, naming the config's `field`, where they do not fill it."""
    size = group or in_features
    if in_features % size or in_features % 8:
        raise CheckpointError(f"{field} in config.json is {size}, which does not divide {in_features} input features.")
    return in_features // size


def unpack_bytes(words: Tensor, bits: int) -> Tensor:
    """[..., n] integers of any width to [..., n * width / bits] uint8: the codes in them, the lowest bits first."""
    stored = words.contiguous().view(torch.uint8)
    if bits == 8:
        return stored
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=stored.device)
    return ((stored[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def column_order(index: Tensor, group: int, in_features: int, name: str) -> Tensor | None:
    """The inputs sorted by their group [in] int64, of the `index` [in] of each one's group; None if they are.

    Raises CheckpointError where the groups are not of one size.
    """
    size = group or in_features
    plain = torch.arange(in_features) // size
    if torch.equal(index.long(), plain):
        return None
    order = torch.argsort(index, stable=True)
    if not torch.equal(index.long()[order], plain):
        raise CheckpointError(
            f"{name} does not put {size} inputs into every group, as group_size in config.json says it would."
        )
    return order
