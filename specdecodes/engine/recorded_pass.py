"""A pass whose layers are recorded as CUDA graphs: one for every place that a layer's weights come to lie in.

A streamed layer arrives in any slot of the ring, so it has a graph for each; a resident one has one. What waits for a
layer's bytes stays outside the graphs. Not yet run on a GPU; tested with a simulated recorder and a simulated device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from specdecodes.engine.graphs import GraphPool, Recorded
from specdecodes.engine.sight import Sight
from specdecodes.models.decoder import DecoderLayer, LayerStep

RunLayer = Callable[[DecoderLayer, Tensor, LayerStep], Tensor]


class RecordedPass:
    """Of one width. `begin` puts the rows of a pass into tensors that stay where they are, and `layer` runs one layer
    on them; all layers write their hidden state to the same tensor."""

    def __init__(self, run: RunLayer, pool: GraphPool, *, exact: bool) -> None:
        self._run, self._pool, self._exact = run, pool, exact
        self._places: list[Tensor] = []
        self._sights: dict[int | None, Sight] = {}
        self._layers: dict[tuple[int, ...], Recorded] = {}

    def begin(
        self, hidden: Tensor, turn: tuple[Tensor, Tensor], slots: Tensor, sights: Mapping[int | None, Sight]
    ) -> Tensor:
        """`hidden` [B, M, hidden], cos and sin of the rows, the cache slots [M] that they write, and for layers of each
        reach what they see. Gives the tensor in which the hidden state goes from layer to layer."""
        given = [hidden, *turn, slots, *(part for sight in sights.values() for part in (sight.mask, sight.window))]
        if not self._places:
            with torch.inference_mode(False):  # they outlive the caller's mode
                self._places = [torch.empty_like(tensor) for tensor in given]
            masks, windows = self._places[4::2], self._places[5::2]
            seen = zip(sights, masks, windows, strict=True)
            self._sights = {reach: Sight(mask, window) for reach, mask, window in seen}
        for place, tensor in zip(self._places, given, strict=True):
            place.copy_(tensor)
        return self._places[0]

    def layer(self, index: int, layer: DecoderLayer, keys: Tensor, values: Tensor, reach: int | None) -> None:
        """Runs `layer`, number `index`, whose weights are where they will be used, and whose cache rows are `keys` and
        `values`."""
        key = (index, *(tensor.data_ptr() for tensor in layer.buffers()))
        if key not in self._layers:
            hidden, cos, sin, slots, *_ = self._places
            seen = self._sights[reach]
            step = LayerStep(cos, sin, keys, values, slots, seen.mask, seen.window, self._exact)
            self._layers[key] = Recorded(partial(self._advance, layer, hidden, step), self._pool)
        self._layers[key]()

    def _advance(self, layer: DecoderLayer, hidden: Tensor, step: LayerStep) -> None:
        hidden.copy_(self._run(layer, hidden, step))
