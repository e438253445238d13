from __future__ import annotations

import multiprocessing
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from specdecodes.quant.cache import SubstituteCache, checkpoint_identity, clear, entries
from specdecodes.quant.codes import Solved
from specdecodes.quant.solvers.hqq import solve
from specdecodes.quant.spec import Rules

HQQ4 = Rules.parse("hqq4")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.randn(64, 128)}, path)
    return path


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def cache(checkpoint: Path, tmp_path: Path, notices: list[str]) -> SubstituteCache:
    return SubstituteCache([checkpoint], folder=tmp_path / "cache", notify=notices.append)


def solved(seed: int = 0) -> dict[str, Solved]:
    torch.manual_seed(seed)
    return {
        "self_attn.q_proj": Solved(solve(torch.randn(48, 128)), torch.randn(48).bfloat16()),
        "mlp.up_proj": Solved(solve(torch.randn(32, 64))),
    }


def assert_same(found: dict[str, Solved] | None, expected: dict[str, Solved]) -> None:
    assert found is not None and sorted(found) == sorted(expected)
    for name, linear in expected.items():
        for part in ("packed", "scale", "zero"):
            assert torch.equal(getattr(found[name].codes, part), getattr(linear.codes, part))
        bias = found[name].bias
        assert (bias is None) == (linear.bias is None)
        assert bias is None or linear.bias is None or torch.equal(bias, linear.bias)


def files_under(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_is_stored_comes_back_bit_for_bit(cache: SubstituteCache, notices: list[str]) -> None:
    assert cache.load("layers.0", HQQ4) is None
    cache.store("layers.0", HQQ4, solved())
    assert_same(cache.load("layers.0", HQQ4), solved())
    assert cache.load("layers.1", HQQ4) is None
    assert cache.load("layers.0", Rules.parse("hqq4:g32")) is None
    assert cache.load("layers.0", Rules.parse("hqq3")) is None
    assert notices == []
    assert files_under(cache.root) == ["layers.0.safetensors"]


def test_changed_weights_are_another_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    before = checkpoint_identity([checkpoint])
    assert checkpoint_identity([checkpoint]) == before
    stat = checkpoint.stat()
    weights = load_file(checkpoint)
    save_file({"w": -weights["w"]}, checkpoint)
    os.utime(checkpoint, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # same size and time: only the bytes tell
    same_time = checkpoint_identity([checkpoint])
    assert same_time != before
    os.utime(checkpoint, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert checkpoint_identity([checkpoint]) != same_time
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    later = checkpoint_identity([checkpoint])
    assert checkpoint_identity([checkpoint.rename(moved / checkpoint.name)]) == later


def test_order_and_links_of_shards_do_not_matter(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "model-2.safetensors"
    save_file({"v": torch.randn(8, 8)}, other)
    link = tmp_path / "linked.safetensors"
    link.symlink_to(checkpoint)
    assert checkpoint_identity([checkpoint, other]) == checkpoint_identity([other, link])
    assert checkpoint_identity([checkpoint]) != checkpoint_identity([checkpoint, other])


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "header"])
def test_a_harmed_entry_is_told_and_made_anew(cache: SubstituteCache, notices: list[str], harm: str) -> None:
    cache.store("layers.0", HQQ4, solved())
    path = cache.path("layers.0", HQQ4)
    content = bytearray(path.read_bytes())
    if harm == "flipped":
        content[-100] ^= 1
    if harm == "header":
        content[20] ^= 0xFF
    path.write_bytes(content[: {"cut": len(content) // 2, "empty": 0}.get(harm, len(content))])
    assert cache.load("layers.0", HQQ4) is None
    assert len(notices) == 1 and str(path) in notices[0] and "made anew" in notices[0]
    cache.store("layers.0", HQQ4, solved())
    assert_same(cache.load("layers.0", HQQ4), solved())


@contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """Writes beyond `limit` bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing_and_is_told_once(cache: SubstituteCache, notices: list[str]) -> None:
    with largest_file(2000):
        cache.store("layers.0", HQQ4, solved())
        cache.store("layers.1", HQQ4, solved())
    assert files_under(cache.root) == []
    assert len(notices) == 1 and "SPECDECODES_CACHE" in notices[0]


def test_a_folder_that_cannot_be_made_is_told_once(checkpoint: Path, tmp_path: Path, notices: list[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = SubstituteCache([checkpoint], folder=tmp_path / "file", notify=notices.append)
    cache.store("layers.0", HQQ4, solved())
    cache.store("layers.1", HQQ4, solved())
    assert len(notices) == 1


def write_again_and_again(cache: SubstituteCache, times: int) -> None:
    torch.set_num_threads(1)
    linears = solved()
    for _ in range(times):
        cache.store("layers.0", HQQ4, linears)


def test_two_writers_and_a_reader(checkpoint: Path, tmp_path: Path) -> None:
    """Readers see a whole entry at every moment while two processes replace it."""
    cache = SubstituteCache([checkpoint], folder=tmp_path / "cache", notify=pytest.fail)
    cache.store("layers.0", HQQ4, solved())
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_again_and_again, args=(cache, 40)) for _ in range(2)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert_same(cache.load("layers.0", HQQ4), solved())
        reads += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert reads > 0
    assert files_under(cache.root) == ["layers.0.safetensors"]


def test_sizes_and_clearing(cache: SubstituteCache, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert entries(folder) == [] and clear(folder) == 0
    for layer in ("layers.0", "layers.1"):
        cache.store(layer, HQQ4, solved())
    cache.store("layers.0", Rules.parse("hqq3"), {"mlp.up_proj": solved()["mlp.up_proj"]})
    (cache.path("layers.0", HQQ4).parent / ".layers.9.killed.part").write_bytes(b"left behind")
    listed = entries(folder)
    assert [entry.layers for entry in listed] == [2, 1]
    assert [entry.scheme for entry in listed] == [HQQ4.weights, Rules.parse("hqq3").weights]
    assert {entry.checkpoint for entry in listed} == {str(tmp_path)}
    assert listed[0].nbytes > listed[1].nbytes > 1000
    assert clear(folder) == sum(entry.nbytes for entry in listed) + len(b"left behind")
    assert entries(folder) == []
    assert cache.load("layers.0", HQQ4) is None


def test_a_budget_of_disk_is_kept_to_with_a_notice(checkpoint: Path, tmp_path: Path, notices: list[str]) -> None:
    folder = tmp_path / "cache"
    free = SubstituteCache([checkpoint], folder=folder, notify=notices.append)
    free.store("layers.0", HQQ4, solved())
    size = free.kept_bytes
    assert size > 0
    tight = SubstituteCache([checkpoint], folder=folder, notify=notices.append, room=size + 100)
    tight.store("layers.1", HQQ4, solved())
    assert not notices and tight.kept_bytes > size
    tight.store("layers.2", HQQ4, solved())
    assert tight.load("layers.2", HQQ4) is None
    assert len(notices) == 1 and "memory.disk" in notices[0]
