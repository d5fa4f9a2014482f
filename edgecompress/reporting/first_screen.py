"""What a report says before one scrolls: the answer, four tiles, warnings, one picture, advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from edgecompress.profiling.comparisons import TimedPair
from edgecompress.profiling.instruction_counts import InstructionComparison
from edgecompress.reporting import bars, latency_tables, layer_tables
from edgecompress.reporting.document import Report
from edgecompress.reporting.numbers import (
    bytes_text,
    capitalized,
    change,
    count_text,
    milliseconds,
    minus,
    score_change,
    score_text,
)
from edgecompress.reporting.recommending import Recommendation, recommendation
from edgecompress.reporting.wording import (
    NO_DIFFERENCE,
    agreement_text,
    core_of,
    lost_clause,
    place_of,
    sqnr_text,
    verdict_of,
)

Tone = Literal["good", "bad", "neutral"]
MOST_BARS = 8
"""Layers in the picture: the largest ones."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure: its value after, that before, what changed, and how sure that is."""

    name: str
    value: str
    before: str = ""
    changed: str = ""
    note: str = ""
    tone: Tone = "neutral"


@dataclass(frozen=True, slots=True)
class Link:
    """One line that leads to a section of the page, by its name."""

    text: str
    section: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do, and with which option or command, if any."""

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class FirstScreen:
    """All of it; ``picture`` is None where there are no layers."""

    recommendation: Recommendation
    tone: Tone
    tiles: Sequence[Tile]
    warnings: Sequence[Link]
    advice: Sequence[Advice]
    picture: bars.Panel | None
    left_out: int


TONES: dict[str, Tone] = {"ship": "good", "do not ship": "bad", "measure on your device first": "neutral"}


def first_screen(report: Report) -> FirstScreen:
    """The answer and its grounds."""
    answer, (picture, left_out) = recommendation(report), _picture(report)
    tiles = (_size(report), _latency(report), _accuracy(report), _parity(report))
    return FirstScreen(
        answer, TONES[answer.answer], tiles, tuple(_warnings(report)), tuple(_advice(report)), picture, left_out
    )


# -- tiles -------------------------------------------------------------------------------------------------------------


def _size(report: Report) -> Tile:
    before, after = report.files
    if before is None or after is None:
        sizes = report.cost.map(lambda one: one.weight_bytes)
        return Tile("Size", bytes_text(sizes.compressed), bytes_text(sizes.dense), change(*sizes), "weights, no file")
    smaller: Tone = "good" if after.size_bytes < before.size_bytes else "bad"
    zipped = f"{after.path}, {bytes_text(after.zipped_bytes)} zipped"
    changed = change(before.size_bytes, after.size_bytes)
    return Tile("Size", bytes_text(after.size_bytes), bytes_text(before.size_bytes), changed, zipped, smaller)


def _latency(report: Report) -> Tile:
    pair = report.comparison
    if isinstance(pair, InstructionComparison):
        after, before = (count_text(one.least) for one in (pair.candidate_counts, pair.baseline_counts))
        fewer: Tone = "good" if pair.ratio > 1 else "bad"
        return Tile("Instructions", after, before, f"{pair.ratio:.2f}\N{MULTIPLICATION SIGN} fewer",
                    f"emulated {core_of(pair)}; not time", fewer)  # fmt: skip
    if not isinstance(pair, TimedPair):
        return Tile("Latency", "not measured")
    after, before = (milliseconds(one.statistics.wall.p50) for one in (pair.candidate_latency, pair.baseline_latency))
    speed, interval = _speed(pair)
    return Tile("Latency, p50", after, before, speed, f"{interval}{place_of(pair)}", _tone_of(pair))


def _speed(pair: TimedPair) -> tuple[str, str]:
    """The speed-up and its interval, or why nothing is claimed."""
    verdict, wall = verdict_of(pair), pair.wall
    if verdict not in ("faster", "slower"):
        measured = pair.device.provenance == "measured"
        return (NO_DIFFERENCE, f"95 % interval {wall.low:.2f} to {wall.high:.2f}x; ") if measured else (verdict, "")
    ratio = wall.inverse if verdict == "slower" else wall
    return f"{ratio.value:.2f}x {verdict}", f"95 % interval {ratio.low:.2f} to {ratio.high:.2f}; "


def _tone_of(pair: TimedPair) -> Tone:
    tones: dict[str, Tone] = {"faster": "good", "slower": "bad"}
    return "neutral" if pair.unstable else tones.get(verdict_of(pair), "neutral")


def _accuracy(report: Report) -> Tile:
    """The score, or without one how near the outputs are."""
    before, after = report.before_and_after
    apart, unit, near = report.score_difference, report.metric.unit, report.outputs
    if before is None or after is None or apart is None:
        if near is None:
            return Tile(report.metric.title, "not measured")
        tone: Tone = "bad" if near.lost else "neutral"
        same = f"{agreement_text(near)} of answers the same" if near.agreement is not None else ""
        return Tile("Outputs", sqnr_text(near.sqnr_db), "", same, "SQNR against the dense model; no score", tone)
    changed = minus(score_change(0.0, apart.value, unit)) if apart.resolved or apart.interval is None else NO_DIFFERENCE
    resolved: Tone = "good" if not apart.resolved or apart.value > 0 else "bad"
    note = _interval(apart.interval, unit) if apart.interval else "no interval"
    items = f", {report.test.items:,} items" if report.test else ""
    scores = score_text(after, unit), score_text(before, unit)
    return Tile(report.metric.title, *scores, changed, f"{note}{items}", resolved)


def _interval(interval: tuple[float, float], unit: str) -> str:
    low, high = (minus(f"{mark:+.2f}" if unit else f"{mark:+.4g}") for mark in interval)
    return f"95 % interval {low} to {high}"


def _parity(report: Report) -> Tile:
    """How far the file is from PyTorch."""
    file = report.files.compressed
    if file is None:
        return Tile("Parity", "no file")
    if file.max_abs_error is None:
        return Tile("Parity", "not run here", "", "", f"{file.target} has no runtime on this machine")
    near = f"SQNR {sqnr_text(file.sqnr_db)}" if file.sqnr_db is not None else ""
    return Tile("Parity", f"{file.max_abs_error:.1e}", "", near, "largest error of the file against PyTorch", "good")


# -- warnings and advice -----------------------------------------------------------------------------------------------


def _warnings(report: Report) -> Iterator[Link]:
    """One line each."""
    if lost := lost_clause(report.outputs):
        yield Link(capitalized(lost), "before-and-after")
    if reasons := latency_tables.instabilities(report):
        yield Link(
            f"Not all times can be trusted: {len(reasons)} {'reason' if len(reasons) == 1 else 'reasons'}", "latency"
        )
    slower = [layer for layer in layer_tables.layers_of(report) if layer.slower]
    if slower:
        yield Link(f"{len(slower)} {'layer' if len(slower) == 1 else 'layers'} got slower", "layers")
    for role, target in ((failure.role, failure.target) for failure in report.failed):
        yield Link(f"{target}: no file of the {role} model", "artifacts")


def _advice(report: Report) -> Iterator[Advice]:
    """What would make the result better, by what was seen."""
    slower = [layer.name for layer in layer_tables.layers_of(report) if layer.slower]
    for name in slower[:2]:
        yield Advice(f"{name} got slower: leave it dense", f"--exclude {quoted(name)}")
    if report.suggestion:
        yield Advice(capitalized(report.suggestion))
    int8 = report.front.int8 if report.front else None
    if int8 is not None and int8.as_fast and report.arguments.get("quantize") is None:
        gain = f"{int8.speedup:.2f}x as fast as in float32, 95 % interval {int8.low:.2f} to {int8.high:.2f}"
        words = (
            f"The dense model in int8 is about as fast as this plan, or faster ({gain}); its outputs were not looked at"
        )
        yield Advice(words, "edgecompress export MODEL --quantize int8")
    yield from _advice_on_times(report, slower)
    if report.storage is None and report.cost.compressed.is_only_smaller(report.cost.dense):
        words = "Smaller and not faster: parameters were taken where they cost least; limit the MACs, too"
        yield Advice(words, report.cost.dense.faster_too)
    if not report.test and report.scores is None:
        yield Advice("Accuracy is not known: define data(split) beside model()")


def _advice_on_times(report: Report, slower: Sequence[str]) -> Iterator[Advice]:
    """Where they are of a device; ``slower`` are layers that are."""
    pair = report.comparison
    if isinstance(pair, TimedPair) and pair.device.provenance == "measured":
        if pair.unstable:
            yield Advice("The times wavered: measure longer, with nothing else running", "--seconds 10")
        elif pair.verdict != "faster" and report.cost.compressed.macs < report.cost.dense.macs and not slower:
            yield Advice("Fewer MACs, no gain in time: measure with the threads you ship, or see what int8 gives",
                         "--quantize int8")  # fmt: skip


def quoted(name: str) -> str:
    """A layer's name as a shell takes it."""
    return name if name.replace(".", "").replace("_", "").isalnum() else "'" + name.replace("'", "'\\''") + "'"


# -- picture -----------------------------------------------------------------------------------------------------------


def _picture(report: Report) -> tuple[bars.Panel | None, int]:
    """The largest layers before and after, by time where it is known, else by MACs; how many are not among them."""
    layers = layer_tables.layers_of(report)
    panels = {panel.key: panel for panel in bars.layer_panels(layers, {})}
    panel = panels.get("wall_ms") or panels.get("macs")
    if panel is None:
        return None, 0
    largest = sorted(panel.bars, key=lambda bar: -max(bar.widths.dense or 0, bar.widths.compressed or 0))[:MOST_BARS]
    return replace(panel, bars=tuple(bar for bar in panel.bars if bar in largest)), len(panel.bars) - len(largest)
