"""The figures of a report, each a pure function of what was measured and of the width to draw it in."""

from __future__ import annotations

from collections.abc import Sequence

from specdecodes.benchmark.report.drawing import Drawing, Scale, duration, extent, shown
from specdecodes.benchmark.report.measured import PHASES, Measured

ROW, BAR = 50, 16
"""Pixels of a method's row, and of the bar in it."""

POINTS = 48
"""Stretches of the clock in the figure of speed over time."""


HEIGHT = 240  # of a figure with curves
COLOURS = 6
"""Classes of the style sheet, `arm-0` and on; a seventh method starts over."""


def colour(arm: Measured) -> str:
    return f"arm-{arm.colour % COLOURS}"


def speed(arms: Sequence[Measured], width: float) -> Drawing:
    """A bar a method, as long as its tokens/s, with its 95% interval and its ratio to the first."""
    drawing = Drawing(width, ROW * len(arms), "Tokens per second by method")
    ends = [max(arm.speed, arm.interval[1] if arm.interval else 0.0) for arm in arms]
    scale = Scale(0.0, max(ends, default=1.0), 0.0, width - 2)
    for place, arm in enumerate(arms):
        top = ROW * place
        ratio = f" · {shown(arm.speed / arms[0].speed)}×" if place and arms[0].speed else ""
        _heading(drawing, top, arm.label, f"{shown(arm.speed)} tokens/s{ratio}")
        drawing.rect(0, top + 20, scale(arm.speed), BAR, f"bar {colour(arm)}", _speed_title(arm))
        if arm.interval:
            low, high, middle = scale(arm.interval[0]), scale(arm.interval[1]), top + 20 + BAR / 2
            drawing.line(low, middle, high, middle, "whisker")
            for end in (low, high):
                drawing.line(end, middle - 5, end, middle + 5, "whisker")
    return drawing


def token_time(arms: Sequence[Measured], width: float) -> Drawing:
    """A bar a method, as long as a token takes, divided by what the time was spent on; a tick where the link alone
    would end."""
    drawing = Drawing(width, ROW * len(arms), "Time of a token by phase and method")
    totals = [sum(arm.token_seconds().values()) for arm in arms]
    scale = Scale(0.0, max(totals, default=1.0), 0.0, width - 2)
    for place, arm in enumerate(arms):
        top, left, bound = ROW * place, 0.0, arm.bound_seconds()
        _heading(drawing, top, arm.label, f"{duration(totals[place])} a token")
        for phase, seconds in arm.token_seconds().items():
            share = seconds / totals[place] if totals[place] else 0.0
            right = left + seconds
            title = f"{arm.label}, {PHASES[phase]}: {duration(seconds)} a token, {share:.0%}"
            drawing.rect(scale(left), top + 20, scale(right) - scale(left), BAR, f"bar {phase}", title)
            middle = (scale(left) + scale(right)) / 2
            clear = bound is None or abs(scale(bound) - middle) > extent("100%") / 2
            if clear and scale(right) - scale(left) > extent("100%"):
                drawing.text(middle, top + 32, f"{share:.0%}", f"inside on-{phase}", "middle")
            left = right
        if bound is not None:
            title = f"{arm.label}: {duration(bound)} a token if the link were all there is"
            drawing.line(scale(bound), top + 16, scale(bound), top + 24 + BAR, "bound", title)
    return drawing


def acceptance(arms: Sequence[Measured], width: float) -> Drawing:
    """By depth of the tree, the share of rounds in which the target agreed that deep; a line a drafting method."""
    lines = [
        (arm, [(float(depth), share) for depth, share in enumerate(arm.figures["accepted_by_depth"], start=1)])
        for arm in arms
        if arm.drafts and arm.figures["accepted_by_depth"]  # empty where no draft was worth verifying
    ]
    deepest = max((points[-1][0] for _, points in lines), default=1.0)
    drawing = Drawing(width, HEIGHT, "Share of rounds accepted, by depth")
    across, up = _frame(drawing, (1.0, max(deepest, 2.0)), (0.0, 1.0), lines, percent=True)
    drawing.text(across.start, HEIGHT - 4, "depth in the tree", "axis")
    for arm, points in lines:
        drawing.path([(across(depth), up(share)) for depth, share in points], f"curve {colour(arm)}")
        for depth, share in points:
            title = f"{arm.label}: at depth {depth:.0f} in {share:.0%} of the rounds that went there"
            drawing.dot(across(depth), up(share), 3, f"dot {colour(arm)}", title)
    _name_curves(drawing, lines, across, up)
    return drawing


def accepted_tokens(arms: Sequence[Measured], width: float) -> Drawing:
    """How many draft tokens rounds accepted, a histogram a drafting method, its mean (tau) marked."""
    drafting = [(arm, arm.accepted()) for arm in arms if arm.drafts]
    panel, gap, room = 100, 18, 32
    foot = (panel + gap) * len(drafting) - gap
    drawing = Drawing(width, foot + room, "Accepted draft tokens per round")
    most = max((max(shares) for _, shares in drafting), default=0)
    tallest = max((max(shares.values()) for _, shares in drafting), default=1.0)
    across = Scale(-0.5, most + 0.5, 0.0, width)
    for row, (arm, shares) in enumerate(drafting):
        top, tau = (panel + gap) * row, arm.figures["tau"]
        base = top + panel
        _heading(drawing, top, arm.label, f"τ = {tau:.2f}")
        up = Scale(0.0, tallest, base, top + 26)
        for number, share in shares.items():
            left, right = across(number - 0.42), across(number + 0.42)
            title = f"{arm.label}: {number} accepted in {share:.1%} of the rounds"
            drawing.rect(left, up(share), right - left, base - up(share), f"bar {colour(arm)}", title)
        drawing.line(0, base, width, base, "base")
        drawing.line(across(tau), top + 22, across(tau), base, "bound", f"{arm.label}: mean {tau:.2f}")
    for tick in across.ticks(int(width // 32), whole=True):
        drawing.text(across(tick), foot + 14, f"{tick:.0f}", "axis", "middle")
    drawing.text(0, foot + room - 4, "draft tokens accepted in a round", "axis")
    return drawing


def over_time(arms: Sequence[Measured], width: float) -> Drawing:
    """Tokens/s along the run's own clock, a line a method: a machine that slows down shows here."""
    lines = [(arm, points) for arm in arms if (points := arm.over_time(POINTS))]
    longest = max((arm.figures["wall_seconds"] for arm, _ in lines), default=1.0)
    fastest = max((rate for _, points in lines for _, rate in points), default=1.0)
    drawing = Drawing(width, HEIGHT, "Tokens per second over the run")
    across, up = _frame(drawing, (0.0, longest), (0.0, fastest), lines)
    drawing.text(across.start, HEIGHT - 4, "seconds of answering", "axis")
    for arm, points in lines:
        drawing.path([(across(x), up(y)) for x, y in points], f"curve {colour(arm)}", arm.label)
    _name_curves(drawing, lines, across, up)
    return drawing


Points = Sequence[tuple[float, float]]
Lines = Sequence[tuple[Measured, Points]]


def _speed_title(arm: Measured) -> str:
    spread = f", 95% interval {shown(arm.interval[0])} to {shown(arm.interval[1])}" if arm.interval else ""
    return f"{arm.label}: {shown(arm.speed)} tokens/s{spread}"


def _heading(drawing: Drawing, top: float, label: str, value: str) -> None:
    drawing.text(0, top + 13, _cut(label, drawing.width - extent(value) - 12), "name")
    drawing.text(drawing.width, top + 13, value, "value", "end")


def _cut(label: str, room: float) -> str:
    letters = max(int(room / extent("m")), 2)
    return label if len(label) <= letters else label[: letters - 1] + "…"


def _frame(
    drawing: Drawing, across: tuple[float, float], up: tuple[float, float], lines: Lines, percent: bool = False
) -> tuple[Scale, Scale]:
    """Grid lines and their numbers; room for the names of the curves at the right."""
    names = max((extent(arm.label) for arm, _ in lines), default=0.0)
    right = drawing.width - min(names + 8, drawing.width * 0.35)
    wide, high = Scale(*across, 40, right), Scale(*up, drawing.height - 38, 10)
    for tick in high.ticks(4):
        drawing.line(40, high(tick), right, high(tick), "grid")
        drawing.text(34, high(tick) + 4, f"{tick:.0%}" if percent else f"{tick:g}", "axis", "end")
    for tick in wide.ticks(int((right - 40) // 48), whole=percent):
        drawing.text(wide(tick), drawing.height - 20, f"{tick:g}", "axis", "middle")
    return wide, high


def _name_curves(drawing: Drawing, lines: Lines, across: Scale, up: Scale) -> None:
    """Each name at the end of its curve; names that would touch are moved apart."""
    ends = sorted(((up(points[-1][1]), across(points[-1][0]), arm) for arm, points in lines), key=lambda end: end[:2])
    heights: list[float] = []
    for end, _, _ in ends:
        heights.append(max(end, heights[-1] + 15) if heights else end)
    over = max(0.0, heights[-1] - up.start) if heights else 0.0
    for (_, x, arm), height in zip(ends, heights, strict=True):
        label = _cut(arm.label, drawing.width - x - 8)
        drawing.text(x + 8, height - over + 4, label, f"name ink-{arm.colour % COLOURS}")
