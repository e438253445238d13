"""Writes a checkpoint of any larger size that computes the same function as a small Llama checkpoint.

    python benchmarks/widen.py --out DIR --size 1.5GB [--source assets/demo] [--shards N]

So speed is measured at real sizes with a real model's acceptance. Say h is the source's hidden size and H = factor * h
the wide one. The residual stream is the source's, then zeros. RMSNorm divides by sqrt(H) where the source divides by
sqrt(h), so norm weights and epsilon are rescaled, by powers of two, which is exact. (Where sqrt(factor) is no power of
two, the stream holds the source's twice, and norm weights of zero hide the second copy.) Weights that read the zeros,
and weights that multiply a neuron or a head which is always zero, are random: most of the file. Layers between the
source's add exactly zero. The source's weights keep their places at multiples of 64 inputs, so that 4-bit groups of 64
hold the same numbers as the source's do. Where weights are rotated before they are quantized (w4a16, higgs), rounding
mixes the random ones into the source's; `--fill zeros` leaves nothing to mix.
"""

import argparse
import json
import math
import os
import shutil
import struct
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from benchmarks.shape import Shape, choose_shape, read_shape, split
from specdecodes.errors import ConfigError, SpecDecodesError
from specdecodes.units import format_bytes, parse_bytes

WORKERS = min(8, os.cpu_count() or 1)
"""Layers in the making at a time, each in memory."""


class Widener:
    """Makes the tensors of the wide checkpoint, one at a time, each the same whenever it is made."""

    def __init__(self, source: Path, narrow: Shape, wide: Shape, seed: int = 0, *, zeros: bool = False) -> None:
        self.narrow, self.wide, self.seed, self.zeros = narrow, wide, seed, zeros
        self.factor = wide.hidden // narrow.hidden
        self.copies = 1 if math.log2(self.factor) % 2 == 0 else 2
        self.norm_scale = math.sqrt(self.copies / self.factor)
        self.tensors = load_file(source / "model.safetensors")
        # the source's layers sit evenly among the others
        self.real = {(2 * index + 1) * wide.layers // (2 * narrow.layers): index for index in range(narrow.layers)}

    def config(self, config: dict[str, Any]) -> dict[str, Any]:
        """The wide checkpoint's configuration, from the source's."""
        return config | {
            "hidden_size": self.wide.hidden,
            "intermediate_size": self.wide.intermediate,
            "num_hidden_layers": self.wide.layers,
            "num_attention_heads": self.wide.heads,
            "num_key_value_heads": self.wide.kv_heads,
            "rms_norm_eps": config["rms_norm_eps"] * self.copies / self.factor,
        }

    def layers(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its name, in the order of `Shape.tensors`."""
        embedding = self.tensors["model.embed_tokens.weight"]
        yield "model.embed_tokens.weight", self._into_stream(embedding.T).T.contiguous()
        with ThreadPoolExecutor(WORKERS) as pool:  # random numbers are one thread's work a layer
            ahead: deque[Future[list[tuple[str, Tensor]]]] = deque()
            for index in range(self.wide.layers):
                ahead.append(pool.submit(self._layer, index))
                if len(ahead) == WORKERS:
                    yield from ahead.popleft().result()
            for layer in ahead:
                yield from layer.result()
        source = self.tensors["model.norm.weight"]
        yield "model.norm.weight", self._norm(source, True, torch.Generator().manual_seed(self.seed))

    def _layer(self, index: int) -> list[tuple[str, Tensor]]:
        """The tensors of a layer, with their names."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        like = self.real.get(index, index * self.narrow.layers // self.wide.layers)
        tensors = []
        for name, shape in self.wide.layer().items():
            source = self.tensors[f"model.layers.{like}.{name}.weight"]
            wide = self._widen(name, shape, source, index in self.real, generator)
            tensors.append((f"model.layers.{index}.{name}.weight", wide))
        return tensors

    def _widen(
        self, name: str, shape: tuple[int, ...], source: Tensor, real: bool, generator: torch.Generator
    ) -> Tensor:
        if len(shape) == 1:
            return self._norm(source, real, generator)
        spread = 0.0 if self.zeros else float(source.float().std())
        noise = torch.empty(shape, dtype=source.dtype).normal_(0, spread, generator=generator)
        if name in (
            "self_attn.v_proj",
            "mlp.up_proj",
        ):  # what these make of the stream is zero, but for the source's rows
            noise[:, : self.narrow.hidden] = 0
        if not real:
            return noise
        if name == "self_attn.o_proj":
            return self._write(noise, source, self._queries(), self.wide.heads // self.wide.kv_heads * self._key_rows())
        if name == "mlp.down_proj":
            return self._write(noise, source, torch.arange(self.narrow.intermediate), self.narrow.intermediate)
        rows = self._queries() if name == "self_attn.q_proj" else torch.arange(source.shape[0])
        noise[rows, : self.narrow.hidden] = source
        return noise

    def _write(self, noise: Tensor, source: Tensor, columns: Tensor, alive: int) -> Tensor:
        """A matrix [H, inputs] that writes to the stream what `source` does; inputs from `alive` on are always zero."""
        noise[:, :alive] = 0
        noise[:, columns] = self._into_stream(source)
        return noise

    def _into_stream(self, source: Tensor) -> Tensor:
        """Rows [h, n] of the source's stream as rows [H, n] of the wide one."""
        wide = source.new_zeros(self.wide.hidden, source.shape[1])
        wide[: self.copies * self.narrow.hidden] = source.repeat(self.copies, 1)
        return wide

    def _key_rows(self) -> int:
        return self.narrow.kv_heads * self.narrow.head_dim

    def _queries(self) -> Tensor:
        """Rows of the wide query projection that hold the source's, so that each head finds its own keys."""
        group, wide_group = self.narrow.heads // self.narrow.kv_heads, self.wide.heads // self.wide.kv_heads
        rows = torch.arange(self.wide.heads * self.narrow.head_dim).view(-1, wide_group, self.narrow.head_dim)
        return rows[: self.narrow.kv_heads, :group].flatten()

    def _norm(self, source: Tensor, real: bool, generator: torch.Generator) -> Tensor:
        """Norm weights [H]: the source's, rescaled; zeros over a second copy; random where the stream is zero."""
        values = source.float() * self.norm_scale
        wide = torch.randn(self.wide.hidden, generator=generator) * values.std() + values.mean()
        if real:
            wide[: self.narrow.hidden] = values
        wide[self.narrow.hidden : self.copies * self.narrow.hidden] = 0
        return wide.to(source.dtype)


def header(tensors: dict[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    """The start of a safetensors file that holds `tensors` one after another."""
    codes = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        entries[name] = {"dtype": codes[dtype], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_weights(widener: Widener, out: Path, dtype: torch.dtype, shards: int, progress: Progress) -> None:
    """Streams every tensor to `out`, in `shards` files with an index when there is more than one."""
    parts = split(widener.wide, dtype.itemsize, shards)
    files = [
        f"model-{i:05d}-of-{shards:05d}.safetensors" if shards > 1 else "model.safetensors"
        for i in range(1, shards + 1)
    ]
    total = widener.wide.parameters() * dtype.itemsize
    bar = progress.add_task(f"writing {format_bytes(total)}", total=total)
    tensors = widener.layers()
    for part, file in zip(parts, files, strict=True):
        with open(out / file, "wb") as stream:
            stream.write(header(part, dtype))
            for expected in part:
                name, tensor = next(tensors)
                assert name == expected and tuple(tensor.shape) == part[name], f"{name} in the place of {expected}"
                tensor.contiguous().view(torch.uint8).numpy().tofile(stream)
                progress.advance(bar, tensor.numel() * dtype.itemsize)
    if shards > 1:
        where = {name: file for part, file in zip(parts, files, strict=True) for name in part}
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")


def widen(
    source: Path,
    out: Path,
    size: int,
    *,
    shards: int = 1,
    layers: int | None = None,
    shape: Shape | None = None,
    seed: int = 0,
    zeros: bool = False,
) -> Shape:
    """Writes to `out` a checkpoint of about `size` bytes that computes what `source` does; returns its shape. `zeros`
    in place of the random weights."""
    narrow, config = read_shape(source)
    with safe_open(source / "model.safetensors", framework="pt") as tensors:
        dtype = tensors.get_tensor("model.norm.weight").dtype
    wide = shape or choose_shape(narrow, size, dtype.itemsize, layers)
    if not 1 <= shards <= wide.layers:
        raise ConfigError(f"{shards} shards are not possible; choose between 1 and {wide.layers}.")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; choose another folder, or remove it first.")
    out.mkdir(parents=True, exist_ok=True)
    needed, free = wide.parameters() * dtype.itemsize, shutil.disk_usage(out).free
    if needed > free:
        raise ConfigError(f"{format_bytes(needed)} do not fit in the {format_bytes(free)} free at {out}; ask for less.")
    widener = Widener(source, narrow, wide, seed, zeros=zeros)
    with Progress() as progress:
        write_weights(widener, out, dtype, shards, progress)
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".jinja", ".model") and path.name != "training.json":
            shutil.copyfile(path, out / path.name)
    (out / "config.json").write_text(json.dumps(widener.config(config), indent=1) + "\n", encoding="utf-8")
    (out / "README.md").write_text(card(source, narrow, wide, needed, "zeros" if zeros else "random"), encoding="utf-8")
    return wide


def card(source: Path, narrow: Shape, wide: Shape, size: int, others: str) -> str:
    """The model card of a widened checkpoint."""
    return (
        f"# {source.name}, widened to {format_bytes(size)}\n\n"
        f"Widened from {source.name} by `benchmarks/widen.py`: layers {narrow.layers} to {wide.layers}, hidden size "
        f"{narrow.hidden} to {wide.hidden}, intermediate {narrow.intermediate} to {wide.intermediate}, "
        f"heads {narrow.heads} to {wide.heads}.\n"
        f"It computes the same function, no better: all other weights are {others} and cannot reach the output.\n"
        "Figures from it are labelled widened.\n"
    )


def main() -> int:
    """Reads the command line and writes the checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Write a larger checkpoint that computes the same function as a small one."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, empty or new")
    parser.add_argument("--size", required=True, help="bytes of weights at least, like 1.5GB or 3GiB")
    parser.add_argument(
        "--source", type=Path, default=Path("assets/demo"), help="checkpoint to widen (default: the demo model)"
    )
    parser.add_argument("--shards", type=int, default=1, help="number of weight files")
    parser.add_argument("--layers", type=int, help="number of layers (default: many)")
    parser.add_argument("--fill", choices=("random", "zeros"), default="random", help="the weights that change nothing")
    given = parser.parse_args()
    try:
        size, zeros = parse_bytes(given.size), given.fill == "zeros"
        wide = widen(given.source, given.out, size, shards=given.shards, layers=given.layers, zeros=zeros)
    except SpecDecodesError as error:
        print(f"widen: {error}", file=sys.stderr)
        return 2
    sizes = f"{wide.layers} layers, hidden {wide.hidden}, intermediate {wide.intermediate}"
    print(f"{given.out}: {sizes}, widened from {given.source}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
