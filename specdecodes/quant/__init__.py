"""Linears of few bits: `substitute` makes those of one layer, `packed_bytes` tells the planner their size.

Knows nothing of models, streams or methods. `spec.py` names the schemes and says which linear gets which; `solvers` go
from a weight to `codes.py`, the form that all share; `kernels` run that, and `checkpoints` reads it from foreign files.
"""

from specdecodes.quant.apply import (
    LayerDone,
    assemble,
    choose_kernels,
    packed_bytes,
    specimen,
    substitute,
    typical,
)
from specdecodes.quant.cache import SubstituteCache
from specdecodes.quant.kernels.choice import Execution, KernelChoice, in_steps
from specdecodes.quant.kernels.cuda.tuning import tune
from specdecodes.quant.kernels.twins import twin
from specdecodes.quant.spec import FULL, SCHEMES, Rules, Scheme, fitted

__all__ = [
    "FULL",
    "SCHEMES",
    "Execution",
    "KernelChoice",
    "LayerDone",
    "Rules",
    "Scheme",
    "SubstituteCache",
    "assemble",
    "choose_kernels",
    "fitted",
    "in_steps",
    "packed_bytes",
    "specimen",
    "substitute",
    "tune",
    "twin",
    "typical",
]
