"""Kernels in Triton compile for GPUs that are not here: the interpreter takes programs that the compiler refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="needs triton, which comes with torch's CUDA build")

COMPILE = """
import sys
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from specdecodes.models.kernels import host_rows_kernel, tree_attention
from specdecodes.models.kernels.tree_attention import choose_cut
from specdecodes.offload.compression.alone import codec_kernel
from specdecodes.offload.compression.beside import remainder_kernel
from specdecodes.quant.kernels.cuda import lookup_kernel, w4a16_kernel
from specdecodes.quant.kernels.cuda.tiling import choose_splits, choose_tiling

def build(capability, kernel, pointers, constants, warps, stages, multiples=()):
    kinds = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in kernel.arg_names}
    aligned = (at for at, name in enumerate(kernel.arg_names) if multiples and name in {*pointers, *multiples})
    source = ASTSource(kernel, kinds, constants, {(at,): [["tt.divisibility", 16]] for at in aligned})
    options = {"num_warps": warps, "num_stages": stages}
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert made.metadata.shared <= 99 * 1024, f"{made.metadata.shared} bytes of shared memory"  # what small GPUs have
    print(capability, kernel.fn.__name__, len(made.asm["cubin"]))
    return made.asm

def loads_early(text):
    # Weights and inputs are copied some steps ahead, and nothing else is asked for in the step that needs it.
    loop = text[text.index("scf.for"):text.index("scf.yield")]
    copies, wait = loop.count("async_copy_global_to_local"), loop.index("async_wait")
    assert copies == 3 and loop.count("tt.load") == 6 and loop.rindex("tt.load") < wait, loop

def moves_wide(text):
    # Eight weights a thread: of codes and of low bytes one load each, and one store of their words.
    return text.count("ld.global.v2.b32") == 2 and text.count("st.global.v4.b32") == 1

shape = 8, 18944, 3584, 64
tiling = choose_tiling(*shape, choose_splits(*shape, 128))
matrix = {"x": "*bf16", "sums": "*fp32", "nibbles": "*u8", "scale": "*fp16", "offset": "*fp16", "y": "*fp32"}
tile = {"GROUP": 64, "BLOCK_M": tiling.rows, "BLOCK_N": tiling.out, "BLOCK_K": tiling.block, "OPERAND": tl.bfloat16}
cut = choose_cut(56, 4, 2400, 128, 2, 128)
cache = {name: "*bf16" for name in ("query", "key", "value", "keys", "values", "out")}
cache |= dict.fromkeys(("key_steps", "value_steps"), "*fp32")
cache |= {"mask": "*i1", "window": "*i64", "slots": "*i64", "parts": "*fp32", "levels": "*fp32", "scale": "fp32"}
codes = cache | {"key": "*fp32", "keys": "*i8", "values": "*i8"}
piece = {"SPLITS": cut.splits, "ROWS": cut.rows, "SLOTS": cut.slots, "D": 128, "OPERAND": tl.bfloat16}
block = {"block": "*u8", "numbers": "*i32", "out": "*i16"}
beside = block | {"packed": "*u8", "scale": "*fp16", "offset": "*fp16"}
rows, warps = {"GROUP": 64, "TILE": remainder_kernel.TILE, "CHUNK": 64}, remainder_kernel.WARPS
look = {"x": "*bf16", "packed": "*u8", "scale": "*fp16", "offset": "*fp16", "levels": "*fp32", "y": "*fp32"}
grids = [{"BITS": bits, "GROUP": 64, "OFFSET": bits != 4, "LEVELS": bits == 4} for bits in (3, 4)]
place = {"BLOCK_M": 16, "BLOCK_N": 64, "BLOCK_K": 64, "OPERAND": tl.bfloat16}
for capability in map(int, sys.argv[1:]):
    for grid in grids:
        build(capability, lookup_kernel._look_up, look, grid | place, 4, 3)
    shapes = "out", "half"  # as a model's are, and told to the compiler
    loads_early(build(capability, w4a16_kernel._kernel, matrix, tile, tiling.warps, tiling.stages, shapes)["ttgir"])
    build(capability, tree_attention._attend, cache, piece | {"CODED": False}, cut.warps, 2)
    build(capability, tree_attention._store, cache, {"D": 128, "CODED": False}, 1, 2)
    build(capability, tree_attention._attend, codes, piece | {"CODED": True}, cut.warps, 2)
    build(capability, tree_attention._store, codes, {"D": 128, "CODED": True}, 1, 2)
    build(capability, codec_kernel._kernel, block, {"FLOAT16": False, "GROUP": 4096, "HEADER": 16, "ENTRY": 24}, 8, 2)
    for whole, told in ((True, ("half",)), (False, ())):
        made = build(capability, remainder_kernel._restore, beside, rows | {"WHOLE": whole}, warps, 2, told)
        assert not whole or moves_wide(made["ptx"])
    rows_of = {"ids": "*i64", "table": "*bf16", "rows": "*bf16"}
    wide = {"BLOCK": host_rows_kernel.BLOCK}
    made = build(capability, host_rows_kernel._copy_rows, rows_of, wide, host_rows_kernel.WARPS, 2, ("width",))
    assert "ld.global.v4.b32" in made["ptx"]
    build(capability, remainder_kernel._mend, block, {"BLOCK": 1024}, warps, 2)
    build(capability, tree_attention._combine, cache, {"SPLITS": cut.splits, "D": 128}, 1, 2)
"""


def test_kernels_compile_for_ampere_and_hopper() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, "80", "90"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(done.stdout.splitlines()) == 26
