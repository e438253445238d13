"""Where a pass finds its layers: all at hand, or some of them arriving while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from specdecodes.models.decoder import DecoderLayer


@dataclass(frozen=True)
class Traffic:
    """Cumulative bytes that arrived, seconds of reading them, and seconds a pass stood still for them."""

    bytes_read: int = 0
    read_seconds: float = 0.0
    wait_seconds: float = 0.0

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(
            self.bytes_read - earlier.bytes_read,
            self.read_seconds - earlier.read_seconds,
            self.wait_seconds - earlier.wait_seconds,
        )


class LayerSource(Protocol):
    """The layers of one model in order, pass after pass."""

    def layers(self) -> Generator[DecoderLayer, None, None]:
        """One pass; a layer is valid until the next is asked for."""
        ...

    @property
    def traffic(self) -> Traffic: ...


class Counters(Protocol):
    """Cumulative figures of a stream."""

    @property
    def bytes_read(self) -> int: ...

    @property
    def read_seconds(self) -> float: ...

    @property
    def wait_seconds(self) -> float: ...


class Stream(Protocol):
    """What a streamed model needs of `offload.streaming.stream.LayerStream`."""

    def layer(self, index: int) -> contextlib.AbstractContextManager[Mapping[str, Tensor]]: ...

    @property
    def counters(self) -> Counters: ...


class ResidentLayers:
    """All layers in memory."""

    traffic = Traffic()

    def __init__(self, layers: Sequence[DecoderLayer]) -> None:
        self._layers = layers

    def layers(self) -> Generator[DecoderLayer, None, None]:
        yield from self._layers


class StreamedLayers:
    """Layers of which some arrive through a ring; `streamed` lists those, in order, by index in `layers`."""

    def __init__(self, layers: Sequence[DecoderLayer], streamed: Sequence[int], stream: Stream) -> None:
        self._layers = layers
        self._place = {layer: place for place, layer in enumerate(streamed)}
        self._stream = stream

    def layers(self) -> Generator[DecoderLayer, None, None]:
        for index, layer in enumerate(self._layers):
            if index not in self._place:
                yield layer
                continue
            with self._stream.layer(self._place[index]) as tensors:
                layer.put(tensors)
                try:
                    yield layer
                finally:  # a view into the ring must not outlive its turn
                    layer.put({name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()})

    @property
    def traffic(self) -> Traffic:
        counters = self._stream.counters
        return Traffic(counters.bytes_read, counters.read_seconds, counters.wait_seconds)
