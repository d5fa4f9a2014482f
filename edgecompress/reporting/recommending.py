"""Whether a compressed model should be shipped, by what is known of it: in words, with the reason and the next step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgecompress.profiling.comparisons import TimedPair
from edgecompress.reporting.document import Report
from edgecompress.reporting.numbers import bytes_text, minus, score_text
from edgecompress.reporting.suggesting import shortfall
from edgecompress.reporting.wording import interval_of_scores, interval_text, lost_clause, place_of, verdict_of

Answer = Literal["ship", "do not ship", "measure on your device first"]
SHIP: Answer = "ship"
DO_NOT_SHIP: Answer = "do not ship"
MEASURE: Answer = "measure on your device first"
REMOTE = ("ssh:", "adb:", "web")
"""Devices that are what a model is for: what was measured there holds."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """An answer, why, and the command that comes next, to be given in the run's folder; empty where there is none."""

    answer: Answer
    reason: str
    command: str = ""


def recommendation(report: Report) -> Recommendation:
    """The answer to "should I ship it?"; what speaks against it comes first."""
    if (reason := next(_against(report), "")) != "":
        return Recommendation(DO_NOT_SHIP, reason)
    if (reason := next(_open(report), "")) != "":
        return Recommendation(MEASURE, reason, _measure_command(report))
    return Recommendation(SHIP, f"{_gain(report)}, and {_price(report)}")


def _against(report: Report) -> Iterator[str]:
    """Reasons not to ship, the gravest first."""
    if lost := lost_clause(report.outputs):
        yield lost
    if (lacking := shortfall(report)) is not None:
        yield minus(lacking[0])
    pair = report.comparison
    if isinstance(pair, TimedPair) and pair.verdict == "slower" and _is_destination(report):
        yield f"it is {interval_text(pair.wall.inverse, 'slower')} on {place_of(pair)}"


def _open(report: Report) -> Iterator[str]:
    """What is not known yet."""
    pair = report.comparison
    if pair is None:
        yield "nothing was measured"
        return
    if pair.device.provenance != "measured":
        how = pair.device.provenance
        yield f"its figures are {how}: instructions are not time, and an emulator's clock is no device's"
    elif isinstance(pair, TimedPair) and pair.unstable:
        yield f"{_gain(report)}, but the times on {place_of(pair)} wavered"
    elif not _is_destination(report):
        yield f"{_gain(report)}, on {pair.device.processor or 'this machine'}, which says little of a phone or a board"
    if report.before_and_after[1] is None and (report.outputs is None or report.outputs.agreement is None):
        yield "its task score is not known; give data to score it"


def _is_destination(report: Report) -> bool:
    """Whether the times are those of a device that models are shipped to: another one, or an ARM board itself."""
    device = report.comparison.device if report.comparison else None
    return device is not None and (device.is_arm or device.name.startswith(REMOTE))


def _gain(report: Report) -> str:
    """What it gained, in a clause."""
    before, after = report.files
    size = f"{bytes_text(before.size_bytes)} became {bytes_text(after.size_bytes)}" if before and after else "no file"
    pair, verdict = report.comparison, verdict_of(report.comparison)
    if isinstance(pair, TimedPair) and verdict == "faster":
        return f"{size}, {interval_text(pair.wall, 'as fast')}"
    if isinstance(pair, TimedPair) and verdict == "slower":
        return f"{size}, but {interval_text(pair.wall.inverse, 'slower')}"
    return f"{size}, no measurable gain in time" if isinstance(pair, TimedPair) else size


def _price(report: Report) -> str:
    """What that cost, in a clause."""
    apart, unit, after = report.score_difference, report.metric.unit, report.before_and_after[1]
    if apart is None or after is None:
        near = report.outputs
        return "its outputs stay near the dense model's" if near else "what it cost was not measured"
    if apart.interval is not None and not apart.resolved:
        return f"{report.metric.name} stays {score_text(after, unit)} within what {_items(report)} can show"
    return f"{report.metric.name} changes by {interval_of_scores(apart, unit)}"


def _items(report: Report) -> str:
    return f"{report.test.items:,} items" if report.test else "the data"


def _measure_command(report: Report) -> str:
    """On the device, both files in turns."""
    before, after = report.files
    if before is None or after is None:
        return ""
    again = bool(isinstance(report.comparison, TimedPair) and report.comparison.unstable and _is_destination(report))
    device = report.comparison.device.name if again and report.comparison else "ssh:user@board"
    return f"edgecompress profile {after.path} --baseline {before.path} --device {device}"
