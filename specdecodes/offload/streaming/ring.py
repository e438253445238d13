"""The ring's memory: slots of one page-aligned block, allocated once, and each layer's tensors as views into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from specdecodes.offload.storage.layout import Block, LayerLayout, lay_out
from specdecodes.offload.storage.store import TensorSpan, aligned_memory

_CACHE_LINE = 64
_ALIGNED = 256  # what an accelerator's allocator gives


class Ring:
    """`slots` equal slots, each as large as the largest layer is that comes to lie there.

    In host memory a layer that is compressed stays so in its slot, and is restored in one place behind the slots. With
    `dtype`, floating-point tensors of another dtype are converted when a layer is taken, into `converted_bytes`
    of memory that all layers share.
    """

    def __init__(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        slots: int,
        dtype: torch.dtype | None,
        device: torch.device | None = None,
        packed: Mapping[int, int] | None = None,
    ) -> None:
        """On `device`, or in host memory (None), where `memory` has each slot as a buffer to read into; `packed`: what
        compressed layers take of a slot there, by their place."""
        self.layouts: list[LayerLayout] = [lay_out(spans) for spans in layers]
        self.memory: list[memoryview] = []
        self._slots, packed = slots, packed or {}
        self._shifts: list[list[tuple[int, int]]] = [
            _shifts(layout, spans) if (device is not None or place in packed) and not layout.moves else []
            for place, (layout, spans) in enumerate(zip(self.layouts, layers, strict=True))
        ]
        sizes = [
            layout.nbytes + _ALIGNED * len(shifts) for layout, shifts in zip(self.layouts, self._shifts, strict=True)
        ]
        self.slot_bytes = max(packed.get(place, size) for place, size in enumerate(sizes))
        nbytes = slots * self.slot_bytes + max((sizes[place] for place in packed), default=0)
        if device is None:
            memory = aligned_memory(max(1, nbytes))
            self.memory = [memoryview(memory)[at * self.slot_bytes :][: self.slot_bytes] for at in range(slots)]
            self.bytes = torch.frombuffer(memory, dtype=torch.uint8)
        else:
            self.bytes = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self._views = [
            {slot: self._view(slot, layer, spans) for slot in ([slots] if layer in packed else range(slots))}
            for layer, spans in enumerate(layers)
        ]
        self._shared = bool(packed)
        self._converted, self.converted_bytes = _conversions(layers, dtype, device)

    @property
    def nbytes(self) -> int:
        return self.bytes.nbytes + self.converted_bytes

    @property
    def shared(self) -> bool:
        """Whether layers share memory in which they are restored or converted: then one at a time may be held."""
        return self._shared or self.converted_bytes > 0

    def offset(self, slot: int, layer: int, place: int) -> int:
        """Where byte `place` of the layout of `layer` lies in `bytes`, for `slot`."""
        shift = next((shift for start, shift in reversed(self._shifts[layer]) if start <= place), 0)
        return slot * self.slot_bytes + place + shift

    def slot(self, slot: int) -> torch.Tensor:
        """The bytes of a slot."""
        return self.bytes[slot * self.slot_bytes :][: self.slot_bytes]

    def target(self, layer: int, block: Block) -> torch.Tensor:
        """Where a block of a compressed layer is restored."""
        start = self.offset(self._slots, layer, block.slot_offset)
        return self.bytes[start : start + block.expands_to]

    def tensors(self, slot: int, layer: int) -> dict[str, torch.Tensor]:
        """The tensors of `layer`, whose bytes are in `slot`, or restored; views unless they are converted."""
        slot = slot if slot in self._views[layer] else self._slots
        for move in self.layouts[layer].moves:
            start = slot * self.slot_bytes
            source = self.bytes[start + move.source : start + move.source + move.nbytes]
            self.bytes[start + move.target : start + move.target + move.nbytes].copy_(source)
        converted = self._converted[layer]
        for name, target in converted.items():
            target.copy_(self._views[layer][slot][name])
        return self._views[layer][slot] | converted

    def _view(self, slot: int, layer: int, spans: Mapping[str, TensorSpan]) -> dict[str, torch.Tensor]:
        offsets = self.layouts[layer].offsets
        return {
            name: _tensor(self.bytes, self.offset(slot, layer, offsets[name]), span.nbytes, span.dtype, span.shape)
            for name, span in spans.items()
        }


def _shifts(layout: LayerLayout, spans: Mapping[str, TensorSpan]) -> list[tuple[int, int]]:
    """Of each range: where it starts, and how far it is moved so that its first tensor is aligned, as kernels want
    weights to be; sizes keep the others. A layer in two files has two, which are at odds. No tensor comes to lie where
    its dtype cannot be read."""
    unit, found = max(2, *(span.dtype.itemsize for span in spans.values())), []
    for number, block in enumerate(layout.ranges):
        inside = range(block.slot_offset, block.slot_offset + block.length)
        first = min((offset for offset in layout.offsets.values() if offset in inside), default=0) // unit * unit
        found.append((block.slot_offset, number * _ALIGNED + -first % _ALIGNED))
    return found


def _conversions(
    layers: Sequence[Mapping[str, TensorSpan]], dtype: torch.dtype | None, device: torch.device | None
) -> tuple[list[dict[str, torch.Tensor]], int]:
    """Per layer, the converted tensors' places in memory shared by all layers, and that memory's size."""
    places: list[dict[str, int]] = []
    largest = 0
    for spans in layers:
        places.append({})
        end = 0
        for name, span in spans.items():
            if dtype is not None and span.dtype.is_floating_point and span.dtype != dtype:
                places[-1][name] = end
                end += _bytes_as(span, dtype) + -_bytes_as(span, dtype) % _CACHE_LINE
        largest = max(largest, end)
    if dtype is None or not largest:
        return [{} for _ in layers], 0
    if device is None:
        memory = torch.frombuffer(aligned_memory(largest), dtype=torch.uint8)
    else:
        memory = torch.empty(largest, dtype=torch.uint8, device=device)
    converted = [
        {name: _tensor(memory, at, _bytes_as(spans[name], dtype), dtype, spans[name].shape) for name, at in at.items()}
        for spans, at in zip(layers, places, strict=True)
    ]
    return converted, largest


def _bytes_as(span: TensorSpan, dtype: torch.dtype) -> int:
    return span.nbytes // span.dtype.itemsize * dtype.itemsize


def _tensor(memory: torch.Tensor, start: int, nbytes: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return memory[start : start + nbytes].view(dtype).view(shape)
