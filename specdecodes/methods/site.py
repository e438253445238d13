"""Where and how a pipeline runs, found out before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from specdecodes.cache import CacheShape
from specdecodes.config import Pipeline
from specdecodes.engine.compile import Steps, compiled_steps, eager_steps
from specdecodes.errors import ConfigError
from specdecodes.methods.given import check_quant, resident_alone
from specdecodes.methods.measured.machine import find_device
from specdecodes.models.families import ModelSpec
from specdecodes.models.loading import DTYPES, Checkpoint, open_checkpoint
from specdecodes.native import missing_triton
from specdecodes.quant import Execution, Rules

PROMPT_ROWS, WIDE_ROWS = 64, 256
"""Rows of a prompt chunk: of the last ones at least (the width of the usual tree), and of those of a long prompt, where
arithmetic is at its fastest."""


@dataclass(frozen=True)
class Site:
    """Where and how a pipeline runs, found out before anything is loaded."""

    pipeline: Pipeline
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    drafting: int = 0  # rows of a step of a draft or a middle model, whose target is itself; 0: not a draft

    @classmethod
    def of(cls, pipeline: Pipeline, *, drafting: int = 0) -> Site:
        checkpoint = open_checkpoint(pipeline.target.model, pipeline.target.revision)
        check_quant(pipeline.target, checkpoint)
        name, positions = checkpoint.folder.name, checkpoint.spec.max_positions
        if pipeline.max_length > positions:
            raise ConfigError(
                f"max_length is {pipeline.max_length}, but {name} is made for {positions} positions; "
                f"give --max-length {positions} or less, or a checkpoint whose config.json scales its rope further."
            )
        device = find_device(pipeline.target.device)
        dtype = checkpoint.dtype if pipeline.target.dtype == "auto" else DTYPES[pipeline.target.dtype]
        return cls(pipeline, checkpoint, device, dtype, drafting)

    def cache_shape(self, spec: ModelSpec, *, draft_nodes: int, target_nodes: int) -> CacheShape:
        longest, int8 = self.pipeline.max_length, self.int8_cache
        return CacheShape(spec.layers, spec.kv_heads, spec.head_dim, longest, draft_nodes, target_nodes, int8=int8)

    @property
    def int8_cache(self) -> bool:
        """Whether keys and values are kept in 8 bits: those of a draft may be, the target's decide its answers."""
        return bool(self.drafting) and self.pipeline.draft.kv == "int8"

    @property
    def chunk(self) -> int:
        """Rows of a prompt chunk, and of the cache behind the committed ones: the same for every method, as exactness
        asks."""
        return max(PROMPT_ROWS, self.pipeline.tree.nodes)

    @property
    def wide(self) -> int:
        """Rows of a chunk of a long prompt, an eighth of the context at most: the same for every method."""
        return max(self.chunk, min(WIDE_ROWS, self.pipeline.max_length // 8))

    @property
    def rules(self) -> Rules:
        """How the target's linears are quantized, by the checkpoint itself or as the pipeline says."""
        target, given = self.pipeline.target, self.checkpoint.rules
        if not given:
            return target.rules
        asked = [
            (path, scheme and replace(scheme, kernel=target.kernel or scheme.kernel)) for path, scheme in given.rules
        ]
        return Rules(tuple(asked))

    @property
    def execution(self) -> Execution:
        """Where the target's quantized linears run."""
        return Execution(str(self.device), self.drafting or self.pipeline.tree.nodes, draft=bool(self.drafting))

    @property
    def resident_alone(self) -> str:
        """Why the target cannot stream; empty where it can."""
        if self.drafting:
            return "A model that drafts does not stream."
        return resident_alone(self.checkpoint, self.rules, self.execution, self.dtype)

    @property
    def table_aside(self) -> bool:
        """Whether a GPU needs nothing of the embedding but a few rows a step: the head is another table."""
        return self.device.type == "cuda" and not self.drafting and not self.checkpoint.spec.tied

    @property
    def rows_from_host(self) -> bool:
        """Whether a GPU can fetch the embedding's rows from host memory."""
        return self.table_aside and not missing_triton()

    def exact(self, *, streamed: bool) -> bool:
        """Whether the target computes in exact mode: as the pipeline says; unsaid, where a target is streamed, and
        where it rounds activations, since a last bit that differs may move one of those by a whole step."""
        rounds = any(scheme.activations for scheme in self.rules.schemes)
        return (streamed or rounds) if self.pipeline.exact is None else self.pipeline.exact

    def steps(self) -> Steps:
        steps = compiled_steps() if self.pipeline.compile else eager_steps()
        return replace(steps, graphs=self.pipeline.graphs)
