"""The geometry of the report's other charts: histograms, training, plans, minutes under load; no colours.

Places are in percent across and in pixels down.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.latencies import Latency, LatencyStatistics, Sustained
from edgecompress.profiling.ratios import quantile
from edgecompress.reporting.axes import Axis
from edgecompress.reporting.entries import Training, TriedPlan
from edgecompress.reporting.numbers import score_text
from edgecompress.reporting.pairs import ROLES
from edgecompress.reporting.scores import TaskMetric
from edgecompress.reporting.tables import PlanRow

BINS = 80
CLIPPED_ABOVE, SPREADS = 0.995, 3
LEFT_MARGIN = 0.02
HISTOGRAM_HEIGHT = 88
CURVE_TOP, CURVE_HEIGHT = 22, 120
PLOT_HEIGHT, SMALL_PLOT_HEIGHT = 200, 90
MOST_MARKED_EPOCHS = 40
MOST_NUMBERED_POINTS = 30
ROOM_FOR_LABEL = 82.0
"""Right of this, in percent, a point's label stands on its left."""

Marks = Sequence[tuple[float, str]]
"""Where the marks of an axis stand, and their text."""

# -- histograms ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Histogram:
    """One model's wall times: bars by place and height, quantiles by place, and how many runs lie beyond the axis."""

    role: str
    statistics: LatencyStatistics
    bars: Sequence[tuple[float, float]]
    marks: Mapping[str, float]
    beyond: int
    largest: float


@dataclass(frozen=True, slots=True)
class Histograms:
    """Wall times of both models on one axis; ``bins`` are from, to, and both counts."""

    panels: Sequence[Histogram]
    bins: Sequence[tuple[str, str, int, int]]
    ticks: Marks
    high: float
    tallest: str
    height: int = HISTOGRAM_HEIGHT


def histograms(pair: Comparison) -> Histograms:
    """Wall times of both models on one axis.

    It ends at the larger 99.5th percentile, but no farther than ``SPREADS`` times as far from the least time as the
    larger 90th: a busy machine's few slowest runs would leave all others no room.
    """
    latencies = (pair.baseline_latency, pair.candidate_latency)
    runs = [latency.all_wall_ms() for latency in latencies]
    axis = _axis_of(runs)
    counts = [_histogram(times, axis) for times in runs]
    tallest = max(count / len(times) for per_bin, times in zip(counts, runs, strict=True) for count in per_bin)
    panels = [_panel(*one, axis, tallest) for one in zip(ROLES, latencies, counts, strict=True)]
    return Histograms(panels, _bin_rows(counts, axis), axis.marks(), axis.high, f"{100 * tallest:.1f} %")


def _axis_of(runs: Sequence[Sequence[float]]) -> Axis:
    low = min(map(min, runs))
    most, common = (max(quantile(times, part) for times in runs) for part in (CLIPPED_ABOVE, 0.9))
    high = min(most, low + SPREADS * (common - low))
    high = high if high > low else low * 1.1 or 1.0
    return Axis(low - LEFT_MARGIN * (high - low), high)


def _histogram(times: Sequence[float], axis: Axis) -> list[int]:
    """How many runs fall into each of ``BINS`` equal bins; those above the axis are left out."""
    width = (axis.high - axis.low) / BINS
    counts = Counter(min(int((time - axis.low) / width), BINS - 1) for time in times if time <= axis.high)
    return [counts[index] for index in range(BINS)]


def _panel(role: str, latency: Latency, counts: Sequence[int], axis: Axis, tallest: float) -> Histogram:
    times, wall = latency.all_wall_ms(), latency.statistics.wall
    unit = HISTOGRAM_HEIGHT / (tallest * len(times))
    bars = [(round(100 * i / BINS, 2), round(count * unit, 1)) for i, count in enumerate(counts) if count]
    marks = {"p50": wall.p50, "p90": wall.p90, "p99": latency.statistics.p99(wall)}
    within = {mark: axis.place(time) for mark, time in marks.items() if time is not None and time <= axis.high}
    beyond = sum(time > axis.high for time in times)
    return Histogram(role, latency.statistics, bars, within, beyond, max(times))


def _bin_rows(counts: Sequence[Sequence[int]], axis: Axis) -> list[tuple[str, str, int, int]]:
    """From, to, and both counts, of every bin that is not empty in both."""
    width = (axis.high - axis.low) / BINS
    decimals = max(0, 2 - math.floor(math.log10(width)))
    edges = [f"{axis.low + index * width:.{decimals}f}" for index in range(BINS + 1)]
    rows = zip(edges, edges[1:], *counts, strict=False)
    return [row for row in rows if row[2] or row[3]]


# -- training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """An epoch, and where its score stands."""

    epoch: int
    loss: float
    score: float
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Curve:
    """The validation score after each epoch; ``best`` is the point whose weights were kept, None of the start."""

    points: Sequence[CurvePoint]
    best: CurvePoint | None
    marked: bool
    height: int = CURVE_HEIGHT + 2 * CURVE_TOP


def curve(training: Training) -> Curve | None:
    """Points of the validation score, in percent across and pixels down; None without an epoch."""
    history = training.history
    if not history:
        return None
    scores = [epoch.score for epoch in history]
    low, high = min(scores), max(scores)
    across = [round(8 + 84 * (i / (len(scores) - 1) if len(scores) > 1 else 0.5), 2) for i in range(len(scores))]
    down = [round(CURVE_TOP + CURVE_HEIGHT * (high - score) / ((high - low) or 1), 1) for score in scores]
    points = [
        CurvePoint(epoch.epoch, epoch.loss, epoch.score, x, y)
        for epoch, x, y in zip(history, across, down, strict=True)
    ]
    best = next((point for point in points if point.epoch == training.best_epoch), None)
    return Curve(points, best, marked=len(points) <= MOST_MARKED_EPOCHS)


# -- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Point:
    """One plan: where it stands, its mark (``dense``, ``chosen``, ``other``), its label, and all of it in words."""

    x: float
    y: float
    mark: str
    label: str
    words: str

    @property
    def at_the_right(self) -> bool:
        """Whether there is no room for a label on its right."""
        return self.x > ROOM_FOR_LABEL


@dataclass(frozen=True, slots=True)
class Scatter:
    """Plans by a cost across and the score up; ``across`` and ``up`` are the axes' marks."""

    title: str
    points: Sequence[Point]
    across: Marks
    up: Marks
    height: int = PLOT_HEIGHT


def scatter(
    rows: Sequence[PlanRow], of: Callable[[TriedPlan], float | None], title: str, scale: float, metric: TaskMetric
) -> Scatter | None:
    """The score against ``of`` (divided by ``scale``) of the plans that have both; None for fewer than two."""
    both = [(row, of(row.plan), row.plan.accuracy) for row in rows]
    known = [(row, cost / scale, score) for row, cost, score in both if cost is not None and score is not None]
    if len(known) < 2:
        return None
    across = Axis.around(cost for _, cost, _ in known)
    up = Axis.around((score for _, _, score in known), margin=0.15)
    points = [
        Point(
            across.place(cost),
            round(PLOT_HEIGHT * (1 - up.place(score) / 100), 1),
            row.mark,
            _label(row, len(known)),
            f"{row.plan.name}: {score_text(score, metric.unit)}, {title} {cost:.4g}",
        )
        for row, cost, score in sorted(known, key=lambda one: ("other", "dense", "chosen").index(one[0].mark))
    ]
    return Scatter(title, points, across.marks(), up.marks_down(PLOT_HEIGHT))


def _label(row: PlanRow, count: int) -> str:
    """Dense and chosen by name; the others by their number in the table, where there is room."""
    if row.mark != "other":
        return row.mark
    return str(row.number) if count <= MOST_NUMBERED_POINTS else ""


def bytes_scale(sizes: Iterable[float]) -> tuple[float, str]:
    """What to divide sizes by so that the largest reads well, and the unit."""
    largest = max(sizes, default=0.0)
    return next(
        ((scale, unit) for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if largest >= scale), (1, "B")
    )


# -- under load ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """One model over time: polylines without a break, and where its name stands."""

    role: str
    paths: Sequence[str]
    label_y: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over minutes, with the marks of both axes."""

    title: str
    lines: Sequence[Line]
    across: Marks
    up: Marks
    height: int


Column = Callable[[Sustained], Sequence[float | None]]
COLUMNS: Sequence[tuple[str, int, Column]] = (
    ("Median wall time of each window, ms", PLOT_HEIGHT, lambda run: run.wall_ms),
    ("Clock, MHz", SMALL_PLOT_HEIGHT, lambda run: run.clock_mhz),
    ("Temperature, °C", SMALL_PLOT_HEIGHT, lambda run: run.temperature_c),
)


def windows(sustained: Mapping[str, Sustained]) -> list[Plot]:
    """A plot for each column that the device reports, of both models under load."""
    plots = (_plot(sustained, *column) for column in COLUMNS)
    return [plot for plot in plots if plot]


def _plot(sustained: Mapping[str, Sustained], title: str, height: int, of: Column) -> Plot | None:
    series = {role: list(zip(run.start_s, of(run), strict=True)) for role, run in sustained.items()}
    values = [value for points in series.values() for _, value in points if value is not None]
    if not values:
        return None
    across = Axis(0.0, max(start for points in series.values() for start, _ in points) / 60 or 1 / 60)
    up = Axis.around(values, margin=0.2)
    heights = {role: height * (1 - up.place(_first(points, values[0])) / 100) for role, points in series.items()}
    lines = [Line(role, _paths(points, across, up, height), _label_y(role, heights)) for role, points in series.items()]
    return Plot(title, lines, across.marks(), up.marks_down(height), height)


def _first(points: Sequence[tuple[float, float | None]], otherwise: float) -> float:
    return next((value for _, value in points if value is not None), otherwise)


def _label_y(role: str, heights: Mapping[str, float]) -> float:
    """Above its line for the upper one, below it for the lower one."""
    upper = min(heights, key=lambda name: heights[name])
    return round(heights[role] - 8 if role == upper else heights[role] + 17, 1)


def _paths(points: Sequence[tuple[float, float | None]], across: Axis, up: Axis, height: int) -> list[str]:
    """Runs of known values; a single one becomes a line of no length, which is drawn as a dot."""
    runs: list[list[str]] = [[]]
    for start, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{across.place(start / 60)},{height * (1 - up.place(value) / 100):.1f}")
    return [" ".join(run if len(run) > 1 else run * 2) for run in runs if run]
