"""Ways to decode that are compared: the same questions, asked in turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console

from specdecodes.errors import SpecDecodesError

if TYPE_CHECKING:
    from specdecodes.config import Pipeline, Tree
    from specdecodes.generator import Generation, Generator
    from specdecodes.offload.planning.plan import Placement

    Shape = tuple[str, Tree]

COMPILING_TOKENS = 8
"""Enough for a second round: the first has no tree to keep rows of."""


class Arms:
    """One pipeline by many methods and trees. As many generators stay open as what is free holds at once: a machine is
    not equally fast at all times, and what takes turns sees the same of it."""

    def __init__(self, pipeline: Pipeline, console: Console) -> None:
        self._pipeline, self._console = pipeline, console
        self._open: dict[Shape, Generator] = {}

    def __enter__(self) -> Arms:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_all()

    def answers(self, shapes: Sequence[Shape], places: range) -> dict[Shape, list[Generation]]:
        """What each of `shapes` answers to the bundled questions at `places`, second turns, each by itself, behind the
        first ones. A shape that cannot run here is told and left out."""
        plans = dict(self._plans(shapes))
        found: dict[Shape, list[Generation]] = {shape: [] for shape in plans}
        for group in self._groups(plans):
            for place in places:
                for shape in group if place % 2 else reversed(group):
                    with self._console.status(f"{shape[0]}: question {place + 1}"):
                        found[shape].append(self._ask(shape, plans[shape], place))
        return found

    def _plans(self, shapes: Sequence[Shape]) -> Iterator[tuple[Shape, Placement]]:
        from specdecodes.methods import plan_for

        refused: set[str] = set()
        for shape in shapes:
            method, tree = shape
            try:
                yield shape, plan_for(replace(self._pipeline, method=method, tree=tree))
            except SpecDecodesError as error:
                if method not in refused:
                    self._console.print(f"{method} is left out: {error}", style="yellow", markup=False)
                refused.add(method)

    def _groups(self, plans: Mapping[Shape, Placement]) -> Iterator[list[Shape]]:
        """All at once where there is room; else each alone, and closed again."""
        from specdecodes.methods.measured.machine import find_device, free_bytes

        new = [plan for shape, plan in plans.items() if shape not in self._open]
        needed = sum(sum(plan.device_bytes.values()) + sum(plan.host_bytes.values()) for plan in new)
        if needed < free_bytes(find_device(self._pipeline.target.device)):
            yield list(plans)
            return
        self._console.print("There is no room for all at once: one after the other, which is less fair.")
        for shape in plans:
            self._close_all()
            yield [shape]

    def _ask(self, shape: Shape, plan: Placement, place: int) -> Generation:
        from specdecodes.benchmark.questions.mt_bench import BUNDLED
        from specdecodes.benchmark.questions.sources import question, read_samples

        samples = read_samples(BUNDLED, question)
        questions = [sample.turns[turn] for turn in (0, 1) for sample in samples]
        asked = [{"role": "user", "content": questions[place % len(questions)]}]
        return self._generator(shape, plan).generate(asked, self._pipeline.sampling)

    def _generator(self, shape: Shape, plan: Placement) -> Generator:
        from specdecodes.methods import build
        from specdecodes.sampling import SamplingParams

        if shape not in self._open:
            method, tree = shape
            size = f"{tree.width}x{tree.depth}x{tree.nodes}"
            self._console.print(f"{method} {size}: {plan.summary()}", style="dim", highlight=False)
            pipeline = replace(self._pipeline, method=method, tree=tree)
            self._open[shape] = build(pipeline, plan, progress=lambda text: None)
            self._open[shape].generate("Hello", SamplingParams(max_tokens=COMPILING_TOKENS, ignore_eos=True))
        return self._open[shape]

    def _close_all(self) -> None:
        for generator in self._open.values():
            generator.close()
        self._open.clear()
