"""The ring's memory: slots of one page-aligned block, allocated once, and each layer's tensors as views into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from specdecodes.offload.layout import LayerLayout, lay_out
from specdecodes.offload.store import TensorSpan, aligned_memory

_CACHE_LINE = 64
_ALIGNED = 256  # what an accelerator's allocator gives


class Ring:
    """`slots` equal slots, each as large as the largest layer.

    With `dtype`, floating-point tensors of another dtype are converted when a layer is taken, into `converted_bytes`
    of memory that all layers share.
    """

    def __init__(
        self,
        layers: Sequence[Mapping[str, TensorSpan]],
        slots: int,
        dtype: torch.dtype | None,
        device: torch.device | None = None,
    ) -> None:
        """On `device`, or in host memory (None), where `memory` has each slot as a buffer to read into."""
        self.layouts: list[LayerLayout] = [lay_out(spans) for spans in layers]
        self.slot_bytes = max(layout.nbytes for layout in self.layouts)
        self.memory: list[memoryview] = []
        self.shifts = [0] * len(layers)
        if device is None:
            memory = aligned_memory(max(1, slots * self.slot_bytes))
            self.memory = [memoryview(memory)[at * self.slot_bytes :][: self.slot_bytes] for at in range(slots)]
            self.bytes = torch.frombuffer(memory, dtype=torch.uint8)
        else:
            # Kernels want aligned weights; a layer's first tensor is put at such an offset, and sizes keep the others.
            self.shifts = [-min(layout.offsets.values(), default=0) % _ALIGNED for layout in self.layouts]
            self.slot_bytes += _ALIGNED
            self.bytes = torch.empty(slots * self.slot_bytes, dtype=torch.uint8, device=device)
        self._slots = slots
        self._views = [[self._view(slot, layer, spans) for layer, spans in enumerate(layers)] for slot in range(slots)]
        self._converted, self.converted_bytes = _conversions(layers, dtype, device)

    @property
    def nbytes(self) -> int:
        return self._slots * self.slot_bytes + self.converted_bytes

    @property
    def converts(self) -> bool:
        return self.converted_bytes > 0

    def tensors(self, slot: int, layer: int) -> dict[str, torch.Tensor]:
        """The tensors of `layer`, whose bytes have arrived in `slot`; views unless they are converted."""
        for move in self.layouts[layer].moves:
            start = slot * self.slot_bytes
            source = self.bytes[start + move.source : start + move.source + move.nbytes]
            self.bytes[start + move.target : start + move.target + move.nbytes].copy_(source)
        converted = self._converted[layer]
        for name, target in converted.items():
            target.copy_(self._views[slot][layer][name])
        return self._views[slot][layer] | converted

    def _view(self, slot: int, layer: int, spans: Mapping[str, TensorSpan]) -> dict[str, torch.Tensor]:
        start, offsets = slot * self.slot_bytes + self.shifts[layer], self.layouts[layer].offsets
        return {
            name: _tensor(self.bytes, start + offsets[name], span.nbytes, span.dtype, span.shape)
            for name, span in spans.items()
        }


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
