"""The plans that were measured for a latency: as a table, and drawn, time across and expected loss up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgecompress.reporting.axes import Axis
from edgecompress.reporting.charts import Marks, Point
from edgecompress.reporting.document import Report
from edgecompress.reporting.fronts import Front, FrontPlan
from edgecompress.reporting.numbers import score_text
from edgecompress.reporting.table import Table

HEIGHT = 240
HEAD_ROOM = 0.1
"""Of the axis of losses, beyond the least and the largest."""
FACTOR = 30.0
"""Losses that are so many times the least of the front are drawn at the edge: such plans are of no use."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A plan, drawn, and from where to where its 95 % interval lies, in percent across."""

    point: Point
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class FrontView:
    """The chart, what is seen in it, in words, and the table; ``limit`` is where the time that was allowed ends.

    ``steps`` are the corners of the front, in percent across and pixels down.
    """

    plans: Sequence[Interval]
    steps: Sequence[tuple[float, float]]
    across: Marks
    up: Marks
    limit: float | None
    table: Table
    words: str
    height: int = HEIGHT


def front_view(report: Report) -> FrontView | None:
    """None where no plans were measured for a latency."""
    front = report.front
    if front is None or not front.plans:
        return None
    ordered = sorted(front.plans, key=lambda one: (one.loss, one.kept))
    across = Axis.around([100 * share for one in ordered for share in (one.low, one.high)])
    losses = [_height_of(one, ordered) for one in ordered]
    up = Axis.around(losses, HEAD_ROOM)
    plans = [_interval(number, one, across, up, ordered) for number, one in enumerate(ordered, 1)]
    corners = [(one.point.x, one.point.y) for one, plan in zip(plans, ordered, strict=True) if plan.front]
    limit = across.place(100 * front.keep) if across.low <= 100 * front.keep <= across.high else None
    marks = across.marks()
    table = _table(report, ordered)
    return FrontView(plans, sorted(corners), marks, _decades(up), limit, table, _words(front))


def _height_of(plan: FrontPlan, among: Sequence[FrontPlan]) -> float:
    """The logarithm of the loss, within what is worth drawing."""
    positive = [one.loss for one in among if one.loss > 0]
    least = min(positive, default=1.0)
    return math.log10(min(max(plan.loss, least), FACTOR * least))


def _interval(number: int, plan: FrontPlan, across: Axis, up: Axis, among: Sequence[FrontPlan]) -> Interval:
    y = round(HEIGHT * (1 - up.place(_height_of(plan, among)) / 100), 1)
    mark = "chosen" if plan.chosen else "other" if plan.front else "beaten"
    label = "chosen" if plan.chosen else str(number) if plan.front else ""
    words = f"{number}. {plan.rule}: {_percent(plan)} of the dense time, expected loss {plan.loss:.3g}"
    return Interval(
        Point(across.place(100 * plan.kept), y, mark, label, words),
        across.place(100 * plan.low),
        across.place(100 * plan.high),
    )


def _decades(up: Axis) -> Marks:
    """Of 1, 2 and 5 times powers of ten, those that lie on the axis."""
    powers = range(math.floor(up.low), math.ceil(up.high) + 1)
    values = [(power + math.log10(factor), f"{factor * 10.0**power:g}") for power in powers for factor in (1, 2, 5)]
    return [(round(HEIGHT * (1 - up.place(at) / 100), 1), text) for at, text in values if up.low <= at <= up.high]


def _percent(plan: FrontPlan) -> str:
    return f"{100 * plan.kept:.1f} % ({100 * plan.low:.1f} to {100 * plan.high:.1f})"


def _table(report: Report, ordered: Sequence[FrontPlan]) -> Table:
    metric = report.metric
    scored = any(one.score is not None for one in ordered)
    head = ("Plan", "Of the dense time (95 %)", "Times as fast", "Expected loss", "Chains", "Loads")
    rows = [
        (
            f"{number}. {one.rule}{' (chosen)' if one.chosen else '' if one.front else ' (beaten)'}",
            _percent(one),
            f"{1 / one.kept:.2f}",
            f"{one.loss:.3g}",
            str(one.chains),
            str(one.loads),
            *((_score(report, one),) if scored else ()),
            *((one.folder,) if scored else ()),
        )
        for number, one in enumerate(ordered, 1)
    ]
    more = (f"{metric.title}, test", "Folder") if scored else ()
    return Table(
        "Plans measured for a latency, whole files", (*head, *more), tuple(rows), range(1, 6 + scored), "front"
    )


def _score(report: Report, plan: FrontPlan) -> str:
    score = report.before_and_after[1] if plan.chosen and plan.score is None else plan.score
    return "" if score is None else score_text(score, report.metric.unit)


def _words(front: Front) -> str:
    """What was measured, where, and how well."""
    count, best = len(front.plans), sum(one.front for one in front.plans)
    dense = f"{front.dense:,.0f} instructions" if front.unit == "instructions" else f"{front.dense / 1e6:.3f} ms"
    busy = " The machine was busy meanwhile: intervals are wide, and differences within them say nothing."
    return (
        f"{count} plans were measured as whole files before any fine-tuning, in turns with the dense file ({dense}) on "
        f"{front.place}; {best} of them no other beats in both time and expected loss. "
        f"{100 * front.keep:.1f} % of the dense time was allowed.{busy if front.busy else ''}{_int8(front)}"
    )


def _int8(front: Front) -> str:
    if (found := front.int8) is None:
        return ""
    verdict = "about as fast as the chosen plan, or faster" if found.as_fast else "slower than the chosen plan"
    interval = f"95 % interval {100 / found.high:.1f} to {100 / found.low:.1f}"
    return f" The dense model in int8 takes {100 / found.speedup:.1f} % ({interval}): {verdict}."
