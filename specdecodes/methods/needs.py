"""What a method's draft adds to the plan of memory."""

from __future__ import annotations

from dataclasses import dataclass

from specdecodes.cache import CacheShape
from specdecodes.methods.site import Site
from specdecodes.models.families import ModelSpec
from specdecodes.offload.planning.plan import Placement
from specdecodes.quant import Execution, Rules


@dataclass(frozen=True)
class HeadNeeds:
    """A head on the target's features: the `spec` of what its steps run, and the bytes of what it keeps."""

    spec: ModelSpec
    nbytes: int


@dataclass(frozen=True)
class DraftNeeds:
    """What a method's draft adds to the plan: `levels` of drafting at most (and at `least`, if they adapt), tree rows
    in the target's cache, substitutes of the target's layers (packed bytes each) on a kernel, or a model (a site of its
    own) or a head for which the target's runner `taps` layers, and a cache; or a `middle` model as planned with its own
    draft; and the `acceptance` a level that is assumed until a run has shown it."""

    levels: int = 0
    nodes: int = 0
    substitute_bytes: tuple[int, ...] = ()
    substitute_all: bool = False
    rules: Rules = Rules(())
    execution: Execution = Execution()
    kernel: str = ""
    kernel_note: str = ""
    model: Site | None = None
    head: HeadNeeds | None = None
    cache: CacheShape | None = None
    acceptance: float = 0.9
    taps: tuple[int, ...] = ()
    middle: Placement | None = None
    least: int = 1
