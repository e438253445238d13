"""Small layered checkpoints whose tensors start at awkward offsets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from specdecodes import native
from specdecodes.offload.compression.beside import remainder
from specdecodes.offload.compression.parts import Guesses
from specdecodes.offload.storage import files, store
from specdecodes.offload.storage.store import SINGLE, Storage, TensorSpan, read_index
from tests.offload.streaming.device import SimulatedCuda

Layers = list[dict[str, torch.Tensor]]
MakeLayers = Callable[..., tuple[Layers, list[dict[str, TensorSpan]]]]
MakeGuessed = Callable[..., tuple[Layers, list[dict[str, TensorSpan]], dict[int, Guesses]]]
Simulate = Callable[..., SimulatedCuda]


def split(spans: Mapping[str, TensorSpan], layers: int) -> list[dict[str, TensorSpan]]:
    """Spans by layer, under their names within the layer."""
    return [
        {name.split(".", 1)[1]: span for name, span in spans.items() if name.startswith(f"{layer}.")}
        for layer in range(layers)
    ]


@pytest.fixture
def make_layers(tmp_path: Path) -> MakeLayers:
    """Writes `count` layers of some `rows` x 37 bf16 and fp32 weights; returns the tensors and their spans."""

    def make(count: int = 5, rows: int = 700, folder: Path = tmp_path) -> tuple[Layers, list[dict[str, TensorSpan]]]:
        generator = torch.Generator().manual_seed(count)
        layers: Layers = [
            {
                "norm": torch.randn(37, generator=generator),
                "q": torch.randn(rows + 11 * layer, 37, generator=generator).bfloat16(),
                "up": torch.randn(rows, 37, generator=generator).bfloat16(),
                "codes": torch.randint(-128, 128, (3, 5), generator=generator).to(torch.int8),
            }
            for layer in range(count)
        ]
        flat = {f"{layer}.{name}": tensor for layer, tensors in enumerate(layers) for name, tensor in tensors.items()}
        save_file({"embed": torch.randn(3, 3), **flat}, folder / SINGLE)
        return layers, split(read_index(folder), count)

    return make


@pytest.fixture
def make_guessed(tmp_path: Path) -> MakeGuessed:
    """Writes layers of which a substitute knows `q` and `k`, that it holds together, and `up`, and nothing of the rest;
    returns the tensors, their spans, and the guesses of each."""
    if native.find_compiler() is None:
        pytest.skip("no C++ compiler")

    def make(
        count: int = 4, rows: int = 320, layout: str = "lanes", folder: Path = tmp_path
    ) -> tuple[Layers, list[dict[str, TensorSpan]], dict[int, Guesses]]:
        generator = torch.Generator().manual_seed(count)
        layers, guesses = [], {}
        for layer in range(count):
            joined, first = remainder.sample(96 + 16 * layer, 64, group=32, layout=layout)
            above, second = remainder.sample(rows, 64, layout=layout)
            weights = [part.view(torch.bfloat16).view(-1, 64) for part in (first, second)]
            weights[1][torch.randint(rows, (20,), generator=generator), 5] *= 300.0  # as in no substitute
            layers.append(
                {
                    "norm": torch.randn(37, generator=generator),
                    "bias": torch.randn(21, generator=generator).bfloat16(),
                    "k": weights[0][:32].clone(),
                    "q": weights[0][32:].clone(),
                    "up": weights[1],
                    "codes": torch.randint(-128, 128, (3, 5), generator=generator).to(torch.int8),
                }
            )
            held = {"k": joined.part(0, 32), "q": joined.part(32, joined.rows - 32), "up": above}
            guesses[layer] = held
        flat = {f"{layer}.{name}": tensor for layer, tensors in enumerate(layers) for name, tensor in tensors.items()}
        save_file({"embed": torch.randn(3, 3), **flat}, folder / SINGLE)
        return layers, split(read_index(folder), count), guesses

    return make


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Simulate]:
    """`simulate(lockable=..., delay=..., careless=...)`: a device for the length of a test."""
    made: list[SimulatedCuda] = []

    def make(**options: float | str) -> SimulatedCuda:
        made.append(SimulatedCuda(monkeypatch, **options))
        return made[-1]

    yield make
    for cuda in made:
        cuda.end()


@pytest.fixture(params=["direct", "cached"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of reading; the direct one where the disk has it."""
    if request.param == "cached":
        monkeypatch.setattr(files, "probe", lambda path: Storage(False, "as the test says"))
    else:
        (tmp_path / "probed").write_bytes(bytes(8192))
        if not store.probe(tmp_path / "probed").direct:
            pytest.skip("this disk has no O_DIRECT")
    return request.param
