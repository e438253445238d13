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


@dataclass(frozen=True)
class Section:
    """Consecutive `layers` at hand together, the first of number `first`. `stays`: their tensors lie where they are
    from pass to pass."""

    first: int
    layers: Sequence[DecoderLayer]
    stays: bool

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.layers))

    def layer(self, number: int) -> DecoderLayer:
        return self.layers[number - self.first]

    def part(self, first: int, stop: int) -> Section:
        """Those from number `first` to before `stop`."""
        return Section(first, self.layers[first - self.first : stop - self.first], self.stays)


class LayerSource(Protocol):
    """The layers of one model in order, pass after pass."""

    def sections(self) -> Generator[Section, None, None]:
        """One pass; a section is valid until the next is asked for, and none is empty."""
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
    """What a streamed model needs of `offload.streaming.slot_stream.SlotStream`."""

    def layer(self, index: int) -> contextlib.AbstractContextManager[Mapping[str, Tensor]]: ...

    @property
    def counters(self) -> Counters: ...


class ResidentLayers:
    """All layers in memory."""

    traffic = Traffic()

    def __init__(self, layers: Sequence[DecoderLayer]) -> None:
        self._layers = layers

    def sections(self) -> Generator[Section, None, None]:
        if self._layers:
            yield Section(0, self._layers, stays=True)


class StreamedLayers:
    """Layers of which some arrive through a ring; `streamed` lists those, in order, by index in `layers`."""

    def __init__(self, layers: Sequence[DecoderLayer], streamed: Sequence[int], stream: Stream) -> None:
        self._layers = layers
        self._place = {layer: place for place, layer in enumerate(streamed)}
        self._stream = stream

    def sections(self) -> Generator[Section, None, None]:
        first = 0
        for index, place in self._place.items():
            if first < index:
                yield Section(first, self._layers[first:index], stays=True)
            layer, first = self._layers[index], index + 1
            with self._stream.layer(place) as tensors:
                layer.put(tensors)
                try:
                    yield Section(index, [layer], stays=False)
                finally:  # a view into the ring must not outlive its turn
                    layer.put({name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()})
        if first < len(self._layers):
            yield Section(first, self._layers[first:], stays=True)

    @property
    def traffic(self) -> Traffic:
        counters = self._stream.counters
        return Traffic(counters.bytes_read, counters.read_seconds, counters.wait_seconds)
