"""Our own form of a quantized checkpoint: what a kernel holds of each linear, as it holds it, so that it can stream.

Kernels read their buffers where they arrived. `w4a32` and `reference` are for the CPU, `w4a16` for CUDA; a checkpoint
in the form of one kernel still loads for any other, its codes read back, but streams for its own alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specdecodes.quant.checkpoints.layout import Fields, StoredPart, groups_of
from specdecodes.quant.codes import Codes, pack
from specdecodes.quant.grids import CENTRED, E4M3, STEPS, table
from specdecodes.quant.kernels.cpu.lanes import LANES, unpack_lanes
from specdecodes.quant.spec import Scheme

METHOD = "specdecodes"
KERNELS = ("w4a32", "w4a16", "reference")
_BITS, _GRIDS = (2, 4, 8), (STEPS, f"{CENTRED}8", E4M3)
_ACTIVATIONS = ("", "int8-row", "int8-full", "int8-fixed", "fp8", "fp8-fixed")
_FLOAT, _HALF, _BYTE = (torch.float32,), (torch.float16,), (torch.uint8,)


@dataclass(frozen=True)
class PackedLayout:
    kernel: str
    stored: Scheme

    @classmethod
    def of(cls, fields: Fields) -> PackedLayout:
        kernel, scheme = fields.one_of("kernel", KERNELS), fields.section("scheme")
        stored = Scheme(
            str(scheme.values.get("name", "packed")),
            scheme.one_of("bits", _BITS),
            scheme.group("group"),
            activations=scheme.one_of("activations", _ACTIVATIONS, ""),
            regroups=False,
            grid=scheme.one_of("grid", _GRIDS),
            wide=scheme.one_of("wide", (True, False)),
            kernel="reference" if kernel == "reference" else "",
        )
        return cls(kernel, stored)

    def config(self) -> dict[str, object]:
        """What config.json says of it."""
        names = ("name", "bits", "group", "activations", "grid", "wide")
        scheme = {name: value for name, value in vars(self.stored).items() if name in names}
        return {"quant_method": METHOD, "kernel": self.kernel, "scheme": scheme | {"group": self.stored.group or -1}}

    @property
    def marker(self) -> str:
        return "nibbles" if self.kernel == "w4a16" else "packed"

    def scheme(self, dtypes: Mapping[str, torch.dtype]) -> Scheme:
        return self.stored

    def parts(self, out_features: int, in_features: int) -> dict[str, StoredPart]:
        groups = groups_of(in_features, self.stored.group, "quantization_config.scheme.group")
        order = {"order": StoredPart((in_features,), (torch.int64,), optional=True)}
        if self.kernel == "w4a32":
            blocks = -(-out_features // LANES)
            scales = StoredPart((blocks, groups, LANES), _HALF)
            packed = StoredPart((blocks * LANES * in_features // 2,), _BYTE)
            return {"packed": packed, "scale": scales, "offset": scales, "values": StoredPart((16,), _FLOAT)} | order
        if self.kernel == "w4a16":
            scales = StoredPart((groups, out_features), _FLOAT)
            packed = StoredPart((out_features, in_features // 2), _BYTE)
            return {"nibbles": packed, "scale": scales, "offset": scales} | order
        found = {
            "packed": StoredPart((out_features, in_features * self.stored.bits // 8), _BYTE),
            "scale": StoredPart((out_features, groups), _FLOAT),
            "step": StoredPart((1,), _FLOAT, optional=True),
        }
        if self.stored.grid == STEPS:
            second = StoredPart((out_features, groups), _FLOAT, optional=True)  # one of the two
            return found | order | {"offset": second, "shift": second}
        return found | order | {"levels": StoredPart((len(table(self.stored.grid)),), _FLOAT)}

    def read(self, parts: Mapping[str, Tensor], name: str) -> Codes:
        order = parts.get("order")
        if self.kernel == "reference":
            tensors = parts["packed"], parts["scale"], parts.get("offset")
            return Codes(
                *tensors,
                self.stored.bits,
                self.stored.grid,
                order=order,
                step=parts.get("step"),
                shift=parts.get("shift"),
            )
        if self.kernel == "w4a16":
            scale, offset = parts["scale"].t().contiguous(), parts["offset"].t()
            whole = torch.where(scale == 0, 8.0, torch.round(8.0 - offset / scale))
            return Codes(parts["nibbles"], scale, whole.contiguous(), order=order)
        codes, scale, offset = unpack_lanes(parts["packed"], parts["scale"], parts["offset"])
        return replace(Codes(pack(codes, 4), scale, -offset), order=order)
