"""Lookup-table linears on the FLUTE library's CUDA kernels, for who asks for them: `higgs4@flute`, an optional extra.

FLUTE's sums are not the same every time they are run, so a draft may run on it and a target may not. It picks a tiling
for the shape while it packs, which is before anything is measured. Not yet run on a GPU; its releases pin a vLLM, and
where it cannot be imported our own lookup kernel does the same product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from specdecodes.errors import QuantError
from specdecodes.extras import extra
from specdecodes.quant.codes import Codes
from specdecodes.quant.grids import table
from specdecodes.quant.hadamard import rotate

_ROWS = 16
"""Of inputs, for which a tiling is picked."""


class FluteLinear(nn.Module):
    """A linear on 2, 3 or 4 bits of a table for CUDA."""

    def __init__(
        self,
        codes: Codes,
        bias: Tensor | None = None,
        *,
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Raises QuantError where FLUTE is not installed, and on a device that is not CUDA."""
        super().__init__()
        where = torch.device(device)
        if where.type != "cuda":
            raise QuantError(f"the flute kernel runs on CUDA, not on {device}; leave @flute away.")
        missing = QuantError(
            "the flute kernel needs FLUTE: pip install flute-kernel; or leave @flute away, which runs our own kernel."
        )
        self._flute = extra("flute", missing)
        self.out_features, self.in_features = codes.shape
        self.bits, self.group, self.rotation, self.dtype = codes.bits, codes.group, codes.rotation, dtype
        packed, scale, levels, pairs, tuned = extra("flute.integrations.higgs", missing).prepare_data_transposed(
            codes.codes().to(where),
            codes.scale.to(where, dtype).contiguous(),
            table(codes.grid).to(where, dtype)[:, None].contiguous(),
            codes.bits,
            codes.group,
            1,
            dtype,
            where,
            _ROWS,
        )
        self.template, self.processors = tuned.template_id, tuned.num_sms
        workspace = extra("flute.utils", missing).make_workspace_streamk(where)
        held = {"packed": packed, "scale": scale, "levels": levels, "pairs": pairs, "workspace": workspace}
        for name, tensor in (held | {"bias": None if bias is None else bias.to(where)}).items():
            self.register_buffer(name, tensor)

    packed: Tensor
    scale: Tensor
    levels: Tensor
    pairs: Tensor
    workspace: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out] in x's dtype."""
        rows = rotate(x.reshape(-1, self.in_features).float(), self.rotation).to(self.dtype)
        y = self._flute.qgemm(
            rows, self.packed, self.scale, self.levels, self.pairs, self.workspace, self.bits, self.group,
            self.template, self.processors,
        )  # fmt: skip
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)
