"""The geometry of the report's charts: places in percent across, pixels down; no drawing and no colours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgecompress.files import Json
from edgecompress.profiling.ratios import quantile
from edgecompress.reporting.wording import BYTES, COUNT, ROLES, TIME, Unit, change, minus, score_text

Pair = tuple[float | None, float | None]
"""A value of the dense and of the compressed model."""

BINS = 80
CLIPPED_ABOVE, SPREADS = 0.995, 3
LEFT_MARGIN = 0.02
ALIKE = 1e-9
"""Values that differ by less, relatively, get the axis of one value: no round marks lie between them."""
HISTOGRAM_HEIGHT = 88
CURVE_TOP, CURVE_HEIGHT = 22, 120
PLOT_HEIGHT, SMALL_PLOT_HEIGHT = 200, 90
MOST_MARKED_EPOCHS = 40
MOST_NUMBERED_POINTS = 30
ROOM_FOR_LABEL = 82.0
"""Right of this, in percent, a point's label stands on its left."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], margin: float = 0.08) -> Axis:
        """A scale with some room on both sides of the values, never below zero for values that are not."""
        known = list(values)
        low, high = min(known), max(known)
        spread = high - low if high - low > ALIKE * abs(high) else abs(high)
        room = margin * (spread or 1.0)
        return cls(max(0.0, low - room) if low >= 0 else low - room, high + room)

    def place(self, value: float) -> float:
        """Where a value stands, in percent; one that lies above stands at the end."""
        return round(100 * (min(value, self.high) - self.low) / (self.high - self.low), 2)

    def marks(self) -> list[tuple[float, str]]:
        """Three to eight round numbers: where they stand, and their text."""
        span = self.high - self.low
        exponent = math.floor(math.log10(span / 3))
        step = next(step for step in (factor * 10.0**exponent for factor in (5, 2, 1)) if span / step >= 3)
        counts = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [(self.place(count * step), f"{count * step:,.{max(0, -exponent)}f}") for count in counts]

    def marks_down(self, height: int) -> list[tuple[float, str]]:
        """The same for a vertical axis of ``height`` pixels."""
        return [(round(height * (1 - place / 100), 1), text) for place, text in self.marks()]


@dataclass(frozen=True, slots=True)
class Bar:
    """A named pair of bars with widths in percent (None: nothing to draw), a label and what changed, in words."""

    name: str
    label: str
    note: str
    widths: tuple[float | None, float | None]
    values: str
    quiet: bool = False
    alarming: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one quantity; ``full`` says what the whole width is."""

    key: str
    title: str
    full: str
    bars: tuple[Bar, ...]
    roles: tuple[str, ...] = ROLES


QUANTITIES: Mapping[str, tuple[str, Unit]] = {
    "macs": ("MACs of one input", COUNT),
    "wall_ms": ("Time in the runtime", TIME),
    "bytes": ("Bytes of weights", BYTES),
}
OUTSIDE, OUTSIDE_OPERATORS = "outside any layer", "outside all operators"


def layer_panels(layers: Sequence[Json], outside: Mapping[str, Json]) -> list[Panel]:
    """A panel for every quantity that is known of any layer, and one for the error.

    ``outside`` are times that are no layer's, by what they are.
    """
    panels = [_layer_panel(layers, outside, key) for key in QUANTITIES if _is_known(layers, key)]
    return [*panels, _error_panel(layers)] if any(layer["error"] is not None for layer in layers) else panels


def _is_known(layers: Sequence[Json], key: str) -> bool:
    return any(layer[role].get(key) is not None for layer in layers for role in ROLES)


def _layer_panel(layers: Sequence[Json], outside: Mapping[str, Json], key: str) -> Panel:
    title, unit = QUANTITIES[key]
    pairs = [(layer["dense"].get(key), layer["compressed"].get(key)) for layer in layers]
    rest = {name: (one["dense"], one["compressed"]) for name, one in outside.items() if key == "wall_ms"}
    full = max(value or 0 for pair in (*pairs, *rest.values()) for value in pair)
    bars = [_layer_bar(layer, pair, full, unit, key) for layer, pair in zip(layers, pairs, strict=True)]
    bars += [Bar(name, "", "", _widths(pair, full), _values(pair, unit), quiet=True) for name, pair in rest.items()]
    return Panel(key, title, unit.show(full), tuple(bars))


def _layer_bar(layer: Json, pair: Pair, full: float, unit: Unit, key: str) -> Bar:
    slower = key == "wall_ms" and layer.get("slower") is True
    note = change(*pair) if layer["method"] else ""
    note = f"▲ slower, {note}" if slower else note
    kept = not layer["method"]
    return Bar(layer["name"], method_text(layer), note, _widths(pair, full), _values(pair, unit), kept, slower)


def _widths(pair: Pair, full: float) -> Pair:
    first, second = (None if value is None else round(100 * value / (full or 1), 2) for value in pair)
    return first, second


def _values(pair: Pair, unit: Unit) -> str:
    return " → ".join("not known" if value is None else unit.show(value) for value in pair)


def _error_panel(layers: Sequence[Json]) -> Panel:
    full = max(layer["error"] or 0 for layer in layers)
    bars = [
        Bar(
            layer["name"],
            method_text(layer),
            "" if layer["error"] is None else f"{layer['error']:.4f}",
            _widths((None, layer["error"]), full),
            "",
            quiet=layer["error"] is None,
        )
        for layer in layers
    ]
    return Panel("error", "Relative squared error", f"{full:.4f}", tuple(bars), ("compressed",))


def method_text(layer: Json) -> str:
    """Method and ranks, or that the layer stays dense."""
    return f"{layer['method']} ({'x'.join(map(str, layer['ranks'] or ()))})" if layer["method"] else "left dense"


def mix_panel(before: Json, after: Json) -> Panel:
    """Instructions of one inference by class, before and after; classes without any are left out."""
    names = list(dict.fromkeys([*before["mix"], *after["mix"]]))
    names = [name for name in names if before["mix"].get(name) or after["mix"].get(name)]
    pairs = [(before["mix"].get(name, 0), after["mix"].get(name, 0)) for name in names]
    full = max((count for pair in pairs for count in pair), default=0)
    bars = [
        Bar(name.replace("_", " "), _values(pair, COUNT), change(*pair), _widths(pair, full), _values(pair, COUNT))
        for name, pair in zip(names, pairs, strict=True)
    ]
    return Panel("mix", "Instructions of one inference", COUNT.show(full), tuple(bars))


def histograms(latencies: Sequence[Json]) -> Json:
    """Wall times of both models on one axis.

    It ends at the larger 99.5th percentile, but no farther than ``SPREADS`` times as far from the least time as the
    larger 90th: a busy machine's few slowest runs would leave all others no room.
    """
    runs = [[run for block in latency["wall_ms"] for run in block] for latency in latencies]
    low = min(map(min, runs))
    most, common = (max(quantile(times, part) for times in runs) for part in (CLIPPED_ABOVE, 0.9))
    high = min(most, low + SPREADS * (common - low))
    high = high if high > low else low * 1.1 or 1.0
    axis = Axis(low - LEFT_MARGIN * (high - low), high)
    counts = [_histogram(times, axis) for times in runs]
    tallest = max(count / len(times) for per_bin, times in zip(counts, runs, strict=True) for count in per_bin)
    panels = [_panel(*one, axis, tallest) for one in zip(ROLES, latencies, runs, counts, strict=True)]
    return {
        "panels": panels,
        "bins": _bin_rows(counts, axis),
        "ticks": axis.marks(),
        "high": axis.high,
        "tallest": f"{100 * tallest:.1f} %",
        "height": HISTOGRAM_HEIGHT,
    }


def _histogram(times: Sequence[float], axis: Axis) -> list[int]:
    """How many runs fall into each of ``BINS`` equal bins; those above the axis are left out."""
    width = (axis.high - axis.low) / BINS
    found = Counter(min(int((time - axis.low) / width), BINS - 1) for time in times if time <= axis.high)
    return [found[index] for index in range(BINS)]


def _panel(role: str, latency: Json, times: Sequence[float], counts: Sequence[int], axis: Axis, tallest: float) -> Json:
    unit = HISTOGRAM_HEIGHT / (tallest * len(times))
    bars = [(round(100 * i / BINS, 2), round(count * unit, 1)) for i, count in enumerate(counts) if count]
    within = {mark: latency["wall"][mark] for mark in ("p50", "p90", "p99") if latency["wall"][mark] <= axis.high}
    marks = {mark: axis.place(time) for mark, time in within.items()}
    beyond = sum(time > axis.high for time in times)
    return {"role": role, "latency": latency, "bars": bars, "marks": marks, "beyond": beyond, "largest": max(times)}


def _bin_rows(counts: Sequence[Sequence[int]], axis: Axis) -> list[tuple[str, str, int, int]]:
    """From, to, and both counts, of every bin that is not empty in both."""
    width = (axis.high - axis.low) / BINS
    decimals = max(0, 2 - math.floor(math.log10(width)))
    edges = [f"{axis.low + index * width:.{decimals}f}" for index in range(BINS + 1)]
    rows = zip(edges, edges[1:], *counts, strict=False)
    return [row for row in rows if row[2] or row[3]]


def curve(training: Json) -> Json | None:
    """Points of the validation score, in percent across and pixels down; None without an epoch."""
    history: list[Json] = training["history"]
    if not history:
        return None
    scores = [epoch["score"] for epoch in history]
    low, high = min(scores), max(scores)
    across = [round(8 + 84 * (i / (len(scores) - 1) if len(scores) > 1 else 0.5), 2) for i in range(len(scores))]
    down = [round(CURVE_TOP + CURVE_HEIGHT * (high - score) / ((high - low) or 1), 1) for score in scores]
    points = [{**epoch, "x": x, "y": y} for epoch, x, y in zip(history, across, down, strict=True)]
    best = [point for point in points if point["epoch"] == training["best_epoch"]]
    return {
        "points": points,
        "best": best[0] if best else None,
        "marked": len(points) <= MOST_MARKED_EPOCHS,
        "height": CURVE_HEIGHT + 2 * CURVE_TOP,
    }


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

    key: str
    title: str
    points: tuple[Point, ...]
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    height: int = PLOT_HEIGHT


def scatter(plans: Sequence[Json], key: str, title: str, scale: float, metric: Mapping[str, str]) -> Scatter | None:
    """The score against ``key`` (divided by ``scale``) of the plans that have both; None for fewer than two."""
    known = [plan for plan in plans if plan["accuracy"] is not None and plan[key] is not None]
    if len(known) < 2:
        return None
    across = Axis.around(plan[key] / scale for plan in known)
    up = Axis.around((plan["accuracy"] for plan in known), margin=0.15)
    ordered = sorted(known, key=lambda plan: ("other", "dense", "chosen").index(plan["mark"]))
    points = [
        Point(
            across.place(plan[key] / scale),
            round(PLOT_HEIGHT * (1 - up.place(plan["accuracy"]) / 100), 1),
            plan["mark"],
            _label(plan, len(known)),
            f"{plan['name']}: {score_text(plan['accuracy'], metric['unit'])}, {title} {plan[key] / scale:.4g}",
        )
        for plan in ordered
    ]
    return Scatter(key, title, tuple(points), across.marks(), up.marks_down(PLOT_HEIGHT))


def _label(plan: Json, count: int) -> str:
    """Dense and chosen by name; the others by their number in the table, where there is room."""
    if plan["mark"] != "other":
        return str(plan["mark"])
    return str(plan["number"]) if count <= MOST_NUMBERED_POINTS else ""


def bytes_scale(sizes: Iterable[float]) -> tuple[float, str]:
    """What to divide sizes by so that the largest reads well, and the unit."""
    largest = max(sizes, default=0.0)
    return next(
        ((scale, unit) for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if largest >= scale), (1, "B")
    )


@dataclass(frozen=True, slots=True)
class Line:
    """One model over time: polylines without a break, and where its name stands."""

    role: str
    paths: tuple[str, ...]
    label_y: float


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over minutes, with the marks of both axes."""

    title: str
    lines: tuple[Line, ...]
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    height: int


COLUMNS = {
    "wall_ms": ("Median wall time of each window, ms", PLOT_HEIGHT),
    "clock_mhz": ("Clock, MHz", SMALL_PLOT_HEIGHT),
    "temperature_c": ("Temperature, °C", SMALL_PLOT_HEIGHT),
}


def windows(sustained: Mapping[str, Json]) -> list[Plot]:
    """A plot for each column that the device tells, of both models under load."""
    plots = (_plot(sustained, key, *COLUMNS[key]) for key in COLUMNS)
    return [plot for plot in plots if plot]


def _plot(sustained: Mapping[str, Json], key: str, title: str, height: int) -> Plot | None:
    series = {role: list(zip(run["start_s"], run[key], strict=True)) for role, run in sustained.items()}
    values = [value for points in series.values() for _, value in points if value is not None]
    if not values:
        return None
    across = Axis(0.0, max(start for points in series.values() for start, _ in points) / 60 or 1 / 60)
    up = Axis.around(values, margin=0.2)
    heights = {role: height * (1 - up.place(_first(points, values[0])) / 100) for role, points in series.items()}
    lines = [
        Line(role, tuple(_paths(points, across, up, height)), _label_y(role, heights))
        for role, points in series.items()
    ]
    return Plot(title, tuple(lines), across.marks(), up.marks_down(height), height)


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


def drift_text(run: Json) -> str:
    """Whether the last fifth of the windows took as long as the first, in words."""
    value, (low, high) = run["drift"], run["drift_ci95"]
    interval = f"last fifth over first fifth {value:.3f}, 95 % interval {low:.3f} to {high:.3f}"
    if run["verdict"] == "steady":
        return f"steady ({interval})"
    words = "slower" if value > 1 else "faster"
    return f"{minus(f'{abs(value - 1) * 100:.1f} %')} {words} at the end than at the start ({interval})"
