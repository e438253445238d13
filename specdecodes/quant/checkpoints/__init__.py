"""Readers of checkpoints that were quantized elsewhere, one file a format; `find_layout` knows them by their config.

Codes are taken as they are: what runs is the weight that the format itself dequantizes to, not rounded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from specdecodes.errors import CheckpointError
from specdecodes.quant.checkpoints.awq import AwqLayout
from specdecodes.quant.checkpoints.compressed_tensors import CompressedTensorsLayout
from specdecodes.quant.checkpoints.gptq import GptqLayout
from specdecodes.quant.checkpoints.layout import Fields, LinearLayout, StoredPart
from specdecodes.quant.checkpoints.packed import METHOD, PackedLayout
from specdecodes.quant.checkpoints.qoq import QoqLayout
from specdecodes.quant.checkpoints.qqq import QqqLayout
from specdecodes.quant.checkpoints.smoothquant import SmoothQuantLayout

__all__ = ["READERS", "LinearLayout", "PackedLayout", "StoredPart", "find_layout"]

READERS: dict[str, Callable[[Fields], LinearLayout]] = {
    "gptq": GptqLayout.of,
    "awq": AwqLayout.of,
    "compressed-tensors": CompressedTensorsLayout.of,
    "qqq": QqqLayout.of,
    "qoq": QoqLayout.of,
    "smoothquant": SmoothQuantLayout.of,
    METHOD: PackedLayout.of,
}
SECTIONS = ("quantization_config", "compression_config")
UNSAID: dict[str, dict[str, Any]] = {
    "s1_szeros": {"quant_method": "qoq", "wbits": 4, "group_size": -1},
    "s2_zeros": {"quant_method": "qoq", "wbits": 4, "group_size": 128},
    "dequant_scale": {"quant_method": "smoothquant"},
}
"""What QServe is told on its command line and config.json does not say, by tensors that no other format has."""


def find_layout(config: Mapping[str, Any], names: Iterable[str] = ()) -> LinearLayout | None:
    """How the linears of a checkpoint with this config.json are stored; None for one that is not quantized.

    `names`: of its tensors, which say what the config of QServe's checkpoints does not.
    Raises CheckpointError, naming the field, for a format that is not known or that contradicts itself.
    """
    section = next((name for name in SECTIONS if config.get(name)), None)
    if section is None:
        leaves = {name.rpartition(".")[2] for name in names}
        return next((find_layout({SECTIONS[0]: said}) for leaf, said in UNSAID.items() if leaf in leaves), None)
    if not isinstance(config[section], Mapping):
        raise CheckpointError(f"{section} in config.json is {config[section]!r}, not a table.")
    fields = Fields(config[section], section)
    method = str(fields.values.get("quant_method", ""))
    if method not in READERS:
        known = ", ".join(READERS)
        raise CheckpointError(f"{section}.quant_method in config.json is '{method}'; what can be read is {known}.")
    return READERS[method](fields)
