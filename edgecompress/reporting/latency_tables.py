"""The report's tables and sentences on latency, minutes under load, and instructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgecompress.devices.base import Counts
from edgecompress.profiling.comparisons import TimedPair
from edgecompress.profiling.instruction_counts import InstructionComparison
from edgecompress.profiling.latencies import LatencyStatistics, Sustained
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import Ratio, Statistics
from edgecompress.reporting.document import Report
from edgecompress.reporting.numbers import change, fact, grouped, milliseconds, significant
from edgecompress.reporting.pairs import Pair
from edgecompress.reporting.table import Table
from edgecompress.reporting.wording import drift_text, verdict_of

ROLE_OF = {"baseline": "dense", "candidate": "compressed"}
"""A comparison's names for the two models, and the report's."""


def latency_table(pair: TimedPair) -> Table:
    """Statistics of both models and clocks."""
    head = ("Time", "Runs", "min", "p50", "p90", "p99", "mean", "stdev")
    return Table("Time in milliseconds", head, tuple(_latency_rows(pair)), range(1, len(head)))


def _latency_rows(pair: TimedPair) -> Iterator[tuple[str, ...]]:
    for role, latency in Pair(pair.baseline_latency.statistics, pair.candidate_latency.statistics).items():
        runs = grouped(latency.runs)
        yield f"{role}, wall", runs, *_marks(latency, latency.wall)
        if pair.cpu and latency.cpu:
            yield f"{role}, CPU", runs, *_marks(latency, latency.cpu)


def _marks(latency: LatencyStatistics, times: Statistics) -> Iterator[str]:
    marks = (times.min, times.p50, times.p90, latency.p99(times), times.mean, times.stdev)
    return ("too few runs" if mark is None else significant(mark) for mark in marks)


def threads_table(pair: TimedPair, others: Sequence[TimedPair]) -> Table:
    """The speed-up at every number of threads that was measured."""
    rows = [_threads_row(one) for one in sorted((pair, *others), key=lambda one: one.threads)]
    head = ("Threads", "Verdict", "Speed-up, wall time", "Speed-up, CPU time", "Dense p50", "Compressed p50")
    return Table("Speed-up by number of threads (95 % interval)", head, tuple(rows), range(2, len(head)))


def _threads_row(pair: TimedPair) -> tuple[str, ...]:
    latencies = Pair(pair.baseline_latency, pair.candidate_latency)
    medians = latencies.map(lambda latency: milliseconds(latency.statistics.wall.p50))
    verdict = verdict_of(pair) + (", unstable" if pair.unstable else "")
    return (str(pair.threads), verdict, _ratio(pair.wall), _ratio(pair.cpu), *medians)


def _ratio(ratio: Ratio | None) -> str:
    return f"{ratio.value:.3f}× ({ratio.low:.3f} to {ratio.high:.3f})" if ratio else "not reported"


def instabilities(report: Report) -> list[tuple[str, str]]:
    """Which measurement is not to be trusted, and why."""
    reasons: dict[str, tuple[str, ...]] = {}
    if isinstance(report.comparison, TimedPair):
        reasons["both models, taking turns"] = report.comparison.unstable
    reasons |= {f"both models with {one.threads} threads": one.unstable for one in report.threads}
    for role, profile in report.profiles.items() if report.profiles else ():
        reasons[f"{role} model alone"] = profile.unstable if isinstance(profile, Profile) else ()
    return [(name, reason) for name, these in reasons.items() for reason in these]


# -- under load ------------------------------------------------------------------------------------------------------


def sustained_of(report: Report) -> dict[str, Sustained]:
    """Both models' minutes under load: taking turns, else each alone, else nothing."""
    together = report.comparison.sustained if isinstance(report.comparison, TimedPair) else {}
    if together:
        return {role: together[name] for name, role in ROLE_OF.items() if name in together}
    profiles = report.profiles.items() if report.profiles else ()
    return {role: one.sustained for role, one in profiles if isinstance(one, Profile) and one.sustained}


def sustained_sentences(sustained: Mapping[str, Sustained]) -> list[str]:
    """Drift of each model in words, with the range of clock and temperature where they are known."""
    ranges = {
        role: _range(run.clock_mhz, "clock_mhz") + _range(run.temperature_c, "temperature_c")
        for role, run in sustained.items()
    }
    return [f"{role}: {drift_text(run)}{ranges[role]}." for role, run in sustained.items()]


def _range(column: Sequence[float | None], key: str) -> str:
    known = [value for value in column if value is not None]
    if not known:
        return ""
    label, least = fact(key, min(known))
    most = fact(key, max(known))[1]
    number = least.rsplit(" ", 1)[0]
    return f"; {label.lower()} {f'{number} to ' if most != least else ''}{most}"


def minutes_under_load(sustained: Mapping[str, Sustained]) -> str:
    """From the first window to the last."""
    return f"{max(run.start_s[-1] for run in sustained.values()) / 60:.1f}"


def windows_table(sustained: Mapping[str, Sustained]) -> Table:
    """Every window of every model."""
    rows = [
        (role, f"{start:,.0f}", significant(wall), _known(clock, ",.0f"), _known(temperature, ".1f"))
        for role, run in sustained.items()
        for start, wall, clock, temperature in zip(
            run.start_s, run.wall_ms, run.clock_mhz, run.temperature_c, strict=True
        )
    ]
    head = ("Model", "From, s", "Median wall time, ms", "Clock, MHz", "Temperature, °C")
    return Table("Windows under load", head, tuple(rows), range(1, len(head)))


def _known(value: float | None, form: str) -> str:
    return "not reported" if value is None else format(value, form)


# -- instructions ----------------------------------------------------------------------------------------------------


def mix_of(pair: InstructionComparison) -> dict[str, Pair[int]]:
    """Instructions of one inference of both models by class."""
    before, after = pair.baseline_counts.mix, pair.candidate_counts.mix
    names = dict.fromkeys([*before, *after])
    return {name.replace("_", " "): Pair(before.get(name, 0), after.get(name, 0)) for name in names}


def mix_table(pair: InstructionComparison) -> Table:
    """Instructions of one inference by class, with shares."""
    counts = Pair(pair.baseline_counts, pair.candidate_counts)
    rows = [(name, *_with_shares(both, counts), change(*both)) for name, both in mix_of(pair).items()]
    whole = counts.map(lambda count: count.least)
    rows.append(("One inference", grouped(whole.dense), "", grouped(whole.compressed), "", change(*whole)))
    head = ("Class", "Dense", "Share", "Compressed", "Share", "Change")
    return Table("Instructions of one inference by class", head, tuple(rows), range(1, len(head)), "totals")


def _with_shares(both: Pair[int], counts: Pair[Counts]) -> Iterator[str]:
    for value, count in zip(both, counts, strict=True):
        yield grouped(value)
        yield f"{100 * value / count.least:.1f} %"
