"""The safetensors reader: what it reads is what was written, and every broken checkpoint is named with its cure."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from specdecodes.errors import CheckpointError
from specdecodes.offload.storage import store

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(33, 7, generator=generator),
        "layers.0.weight": torch.randn(5, 9, generator=generator).bfloat16(),
        "scalar": torch.tensor(3.5),
        "empty": torch.empty(0, 4),
    }


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.dtype == right.dtype and left.shape == right.shape and left.equal(right)


def write_shards(folder: Path) -> dict[str, torch.Tensor]:
    first, second = {"a": torch.arange(6).float()}, {"b": torch.ones(3, 2)}
    save_file(first, folder / "model-00001-of-00002.safetensors")
    save_file(second, folder / "model-00002-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / store.INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return first | second


def write_raw(path: Path, header: dict, body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_single_file_equals_what_safetensors_wrote(tmp_path: Path) -> None:
    written = tensors()
    save_file(written, tmp_path / store.SINGLE, metadata={"format": "pt"})
    spans = store.read_index(tmp_path)
    assert spans.keys() == written.keys()
    assert all(same(store.load_tensor(spans[name]), written[name]) for name in written)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    written = {"w": torch.arange(12).reshape(3, 4).to(dtype)}
    save_file(written, tmp_path / store.SINGLE)
    loaded = store.load_tensor(store.read_index(tmp_path)["w"])
    assert loaded.dtype == dtype
    assert loaded.view(torch.uint8).equal(written["w"].view(torch.uint8))


def test_shards(tmp_path: Path) -> None:
    written = write_shards(tmp_path)
    spans = store.read_index(tmp_path)
    assert {name: span.path.name[:11] for name, span in spans.items()} == {"a": "model-00001", "b": "model-00002"}
    assert all(same(store.load_tensor(spans[name]), written[name]) for name in written)


def test_a_shard_that_repeats_a_tensor_does_not_override_the_index(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"a": torch.zeros(1), "b": torch.ones(3, 2)}, tmp_path / "model-00002-of-00002.safetensors")
    assert store.read_index(tmp_path)["a"].path.name == "model-00001-of-00002.safetensors"


def test_truncated_shard_names_the_file_and_the_missing_bytes(tmp_path: Path) -> None:
    write_shards(tmp_path)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    os.truncate(shard, shard.stat().st_size - 7)
    with pytest.raises(CheckpointError, match=rf"{shard.name} is truncated: 7 B \(7 bytes\)"):
        store.read_index(tmp_path)


@pytest.mark.parametrize("kept", [0, 3, 20])
def test_truncated_header(tmp_path: Path, kept: int) -> None:
    save_file(tensors(), tmp_path / store.SINGLE)
    os.truncate(tmp_path / store.SINGLE, kept)
    with pytest.raises(CheckpointError, match="is truncated"):
        store.read_index(tmp_path)


def test_file_cut_after_its_header_was_read(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / store.SINGLE)
    span = max(store.read_index(tmp_path).values(), key=lambda span: span.offset + span.nbytes)
    os.truncate(span.path, span.offset + 1)
    with pytest.raises(CheckpointError, match=rf"truncated: .*\({span.nbytes - 1} bytes\)"):
        store.load_tensor(span)
    span.path.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        store.load_tensor(span)


def test_missing_shard_and_missing_tensor(tmp_path: Path) -> None:
    write_shards(tmp_path)
    save_file({"other": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match="00002-of-00002.safetensors lacks b"):
        store.read_index(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="00001-of-00002.safetensors is missing"):
        store.read_index(tmp_path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("pytorch_model.bin", "convert them once"), ("model.gguf", "safetensors checkpoint"), ("notes", "check the path")],
)
def test_nothing_to_read_names_the_folder_and_the_cure(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=rf"{tmp_path} holds .*{hint}"):
        store.read_index(tmp_path)


def test_wrong_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        store.read_index(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xff" * 64, "not a safetensors file"),
        (struct.pack("<Q", 4) + b"[1, ", "unreadable header"),
        (struct.pack("<Q", 2) + b"[]", "unreadable header"),
    ],
)
def test_other_files_under_the_name(tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / store.SINGLE).write_bytes(content)
    with pytest.raises(CheckpointError, match=hint):
        store.read_index(tmp_path)


@pytest.mark.parametrize(
    ("entry", "hint"),
    [
        ({"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}, "dtype F4, which cannot be read"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}, "12 bytes, which is not its shape"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}, "not its shape"),
        ({"dtype": "F32", "shape": [4]}, "unreadable header"),
    ],
)
def test_inconsistent_header(tmp_path: Path, entry: dict, hint: str) -> None:
    write_raw(tmp_path / store.SINGLE, {"w": entry}, bytes(16))
    with pytest.raises(CheckpointError, match=hint):
        store.read_index(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"weight_map": 3}'])
def test_broken_index(tmp_path: Path, content: str) -> None:
    (tmp_path / store.INDEX).write_text(content)
    with pytest.raises(CheckpointError, match="not a checkpoint index"):
        store.read_index(tmp_path)


def test_probe_says_why_reads_are_not_direct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5000))
    monkeypatch.setattr(store, "_file_system", lambda path: "oldfs")
    real_open = os.open

    def refuse(path: object, flags: int, *rest: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real_open(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    storage = store.probe(path)
    assert not storage.direct
    assert "oldfs refuses O_DIRECT (Invalid argument)" in storage.reason


def test_probe_names_memory_as_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_file_system", lambda path: "tmpfs")
    storage = store.probe(tmp_path)
    assert not storage.direct
    assert "tmpfs keeps its files in memory" in storage.reason


def test_probe_of_this_disk_agrees_with_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * store.ALIGNMENT + 5))
    storage = store.probe(path)
    memory = store.aligned_memory(4 * store.ALIGNMENT)
    file = store.open_for_reading(path, direct=storage.direct)
    try:
        count = os.preadv(file, [memory], 0)
    finally:
        os.close(file)
    assert count == 3 * store.ALIGNMENT + 5
    assert memory[:count] == path.read_bytes()


def test_probe_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        store.probe(tmp_path / "gone")


def test_file_system_is_the_deepest_mount(tmp_path: Path) -> None:
    if not Path("/proc/self/mounts").exists():
        pytest.skip("no /proc here")
    assert store._file_system(Path("/proc/self")) == "proc"


@pytest.mark.parametrize("direct", [True, False])
def test_measure_read_counts_no_more_than_asked(tmp_path: Path, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(300_000))
    if direct and not store.probe(path).direct:
        pytest.skip("this disk has no O_DIRECT")
    counts: list[int] = []
    real_preadv = os.preadv

    def count(*arguments: object) -> int:
        counts.append(real_preadv(*arguments))
        return counts[-1]

    monkeypatch.setattr(os, "preadv", count)
    assert store.measure_read([path, path], direct=direct, max_bytes=2**30, block=65536) > 0
    assert sum(counts) == 600_000
    counts.clear()
    assert store.measure_read([path, path], direct=direct, max_bytes=65536, block=65536) > 0
    assert sum(counts) == 65536


def test_measure_read_of_nothing(tmp_path: Path) -> None:
    assert store.measure_read([], direct=False) == 0.0
    with pytest.raises(CheckpointError, match="No such file"):
        store.measure_read([tmp_path / "gone"], direct=False)
