"""Every bit comes back, whatever way it is expanded; damage is seen and never leads outside the block."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from specdecodes import native
from specdecodes.errors import CompileError
from specdecodes.offload.compression.alone import codec, codec_reference

pytestmark = pytest.mark.skipif(native.find_compiler() is None, reason="no C++ compiler")

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def ways() -> tuple[str, ...]:
    return codec.WAYS[: codec.WAYS.index(codec.way()) + 1]


def normal(count: int, dtype: torch.dtype, scale: float = 0.02) -> Tensor:
    """Bytes of normally distributed weights."""
    return torch.randn(count, generator=torch.Generator().manual_seed(count)).mul_(scale).to(dtype).view(torch.uint8)


def words(values: list[int] | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.int32).to(torch.uint16).view(torch.uint8)


def samples() -> dict[str, Tensor]:
    """Bytes of weights of every sort."""
    generator = torch.Generator().manual_seed(0)
    every = torch.arange(65536)
    # NaNs with payloads, infinities, denormals, zeros, ones: of both types, both signs.
    special = [0x7F80, 0x7F81, 0x7FC1, 0x7FFF, 0x7C00, 0x7C01, 0x7DFF, 0, 1, 0x7F, 0x80, 0x3FF, 0x400, 0x3F80, 0x3C00]
    special += [word | 0x8000 for word in special]
    return {
        "every pattern": words(every),
        "every pattern shuffled": words(every[torch.randperm(65536, generator=generator)]),
        "special": words((special * 300)[:9000]),
        "one": words([0xFFFF]),
        "zeros": torch.zeros(2 * 5000, dtype=torch.uint8),
        "noise": torch.randint(0, 256, (2 * 12345,), generator=generator, dtype=torch.uint8),
        "two scales": torch.cat([normal(4000, torch.bfloat16), normal(5000, torch.bfloat16, 1e3)]),
        "nearly whole groups": normal(2 * 4096 - 1, torch.bfloat16),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", samples())
def test_every_bit_comes_back(name: str, dtype: str) -> None:
    raw = samples()[name]
    block = codec.compress(raw, DTYPES[dtype])
    assert block.numel() <= codec.bound(raw.numel(), DTYPES[dtype])
    for way in ways():
        out = torch.full_like(raw, 0x55)
        assert codec.expand(block, out, way=way) and out.equal(raw), way
    out = torch.full_like(raw, 0x55)
    codec_reference.expand(block, out, DTYPES[dtype])
    assert out.equal(raw)


def test_threads_that_share_a_block_restore_it_and_see_what_is_damaged() -> None:
    raw = normal(600_000, torch.bfloat16)
    block, out = codec.compress(raw, torch.bfloat16), torch.full_like(raw, 0x55)
    assert codec.expand(block, out, threads=3) and out.equal(raw)
    block[-1000] ^= 1  # in the last group
    assert not codec.expand(block, out, threads=3)


def test_addresses_need_not_be_aligned() -> None:
    raw = normal(3 * 4096, torch.bfloat16)
    block = codec.compress(raw, torch.bfloat16)
    room, shifted = torch.empty(raw.numel() + 2, dtype=torch.uint8), torch.empty(block.numel() + 1, dtype=torch.uint8)
    shifted[1:] = block
    for way in ways():
        assert codec.expand(shifted[1:], room[2:], way=way) and room[2:].equal(raw)


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.675), ("fp16", 0.865)])
def test_normal_weights_take_little_more_than_their_entropy(dtype: str, most: float) -> None:
    raw = normal(2**20, DTYPES[dtype])
    assert codec.compress(raw, DTYPES[dtype]).numel() / raw.numel() < most


def test_noise_grows_by_an_eighth_at_most() -> None:
    raw = samples()["noise"]
    whole = -(-raw.numel() // 8192) * 8192
    assert codec.compress(raw, torch.bfloat16).numel() < whole * 1.13


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_changed_byte_is_seen(dtype: str) -> None:
    raw = torch.cat([normal(5000, DTYPES[dtype]), samples()["noise"][:9000]])
    block, out = codec.compress(raw, DTYPES[dtype]), torch.empty_like(raw)
    planes = codec_reference.Planes.of(raw.numel() // 2, DTYPES[dtype])
    entries = codec_reference.HEADER + codec_reference.ENTRY * planes.groups
    places = [*range(entries), *range(planes.low, block.numel() - codec_reference.SLACK - 8, 97)]
    for place in places:
        damaged = block.clone()
        damaged[place] ^= 0x41
        for way in (ways()[0], ways()[-1]):
            assert not codec.expand(damaged, out, way=way), (way, place)


def test_what_is_no_block_of_this_size_is_refused() -> None:
    raw = normal(9000, torch.bfloat16)
    block = codec.compress(raw, torch.bfloat16)
    for cut in (0, 10, 100, block.numel() - 1):
        assert not codec.expand(block[:cut], torch.empty_like(raw))
    assert not codec.expand(block, torch.empty(raw.numel() - 2, dtype=torch.uint8))
    assert not codec.expand(torch.zeros(8192, dtype=torch.uint8), torch.empty_like(raw))


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object) -> None:
        raise CompileError("no C++ compiler was found: install g++.")

    monkeypatch.setattr(codec, "load", refuse)
    codec._library.cache_clear()
    assert "install g++" in codec.missing()
    monkeypatch.undo()
    assert not codec.missing()
