"""Figures against limits: ``check``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

from edgecompress.files import Json
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import InstructionComparison
from edgecompress.reporting.figures import Figures
from edgecompress.reporting.markdown import escape
from edgecompress.reporting.numbers import bytes_text, milliseconds, score_text
from edgecompress.reporting.scores import TaskMetric
from edgecompress.reporting.wording import interval_of_scores, runtime_text


@dataclass(frozen=True, slots=True)
class Check:
    """One limit: in words, what was found, and by how much it was missed (empty if it was met)."""

    name: str
    limit: str
    found: str
    missed: str

    @property
    def met(self) -> bool:
        """Whether the limit was kept."""
        return not self.missed

    def to_json(self) -> Json:
        """A JSON object."""
        return {**asdict(self), "met": self.met}


NOT_MEASURED = "not measured"


def checks(figures: Figures, limits: Mapping[str, float]) -> list[Check]:
    """Each of ``limits`` (keys of ``LIMITS``) against the figures; what was not measured is not met."""
    return [LIMITS[name](figures, limit) for name, limit in limits.items()]


def _latency(one: Figures, limit: float) -> Check:
    return _at_most("median latency", one.latency_ms, limit, milliseconds)


def _size(one: Figures, limit: float) -> Check:
    return _at_most("file size", one.profile.size_bytes, limit * 1e6, bytes_text)


def _drop(one: Figures, limit: float) -> Check:
    metric = one.metric or TaskMetric()
    name, unit, (before, after) = f"{metric.name} drop", metric.unit, one.accuracy
    points = " points" if unit else ""
    if before is None or after is None or one.lost is None:
        return Check(name, f"at most {limit:g}{points}", NOT_MEASURED, NOT_MEASURED)
    over = before - after - limit
    found = f"{score_text(before, unit)} -> {score_text(after, unit)} ({interval_of_scores(one.lost, unit)})"
    return Check(name, f"at most {limit:g}{points}", found, f"by {over:.2f}{points}" if over > 1e-9 else "")


def _speedup(one: Figures, limit: float) -> Check:
    """The whole interval must lie at or above the limit."""
    pair = one.comparison
    if not isinstance(pair, Comparison) or pair.device.provenance != "measured":
        why = f"{NOT_MEASURED}: instructions are no time" if isinstance(pair, InstructionComparison) else NOT_MEASURED
        return Check("speed-up", f"at least {limit:g}x", why, NOT_MEASURED)
    low, value = pair.wall.low, pair.wall.value
    found = f"{value:.2f}x (95 % interval {low:.2f} to {pair.wall.high:.2f})"
    return Check("speed-up", f"at least {limit:g}x", found, _short(value, low, limit))


def _short(value: float, low: float, limit: float) -> str:
    if low >= limit:
        return ""
    return f"by {limit - value:.2f}x" if value < limit else f"the interval reaches {limit - low:.2f}x below"


def _fewer(one: Figures, limit: float) -> Check:
    pair = one.comparison
    if not isinstance(pair, InstructionComparison):
        return Check("fewer instructions", f"at least {limit:g}x", NOT_MEASURED, NOT_MEASURED)
    missed = f"by {limit - pair.ratio:.2f}x" if pair.ratio < limit else ""
    found = f"{pair.ratio:.3f}x under {pair.candidate_counts.cpu} (emulated)"
    return Check("fewer instructions", f"at least {limit:g}x", found, missed)


def _at_most(name: str, found: float | None, limit: float, show: Callable[[float], str]) -> Check:
    if found is None:
        return Check(name, f"at most {show(limit)}", NOT_MEASURED, NOT_MEASURED)
    missed = f"by {show(found - limit)} ({100 * (found / limit - 1):.1f} %)" if found > limit else ""
    return Check(name, f"at most {show(limit)}", show(found), missed)


LIMITS: dict[str, Callable[[Figures, float], Check]] = {
    "max_latency_ms": _latency,
    "max_size_mb": _size,
    "max_acc_drop": _drop,
    "min_speedup": _speedup,
    "min_instruction_ratio": _fewer,
}


def check_table(figures: Figures, rows: list[Check]) -> str:
    """Markdown for a pull request's page."""
    return "\n".join(_table_lines(figures, rows))


def _table_lines(figures: Figures, rows: list[Check]) -> Iterator[str]:
    profile = figures.profile
    where = profile.device.processor or profile.device.machine
    yield "| check | limit | measured | |"
    yield "|---|---|---|---|"
    for row in rows:
        verdict = "met" if row.met else f"**missed** {escape(row.missed)}"
        yield f"| {escape(row.name)} | {escape(row.limit)} | {escape(row.found)} | {verdict} |"
    yield ""
    threads = f"{profile.threads} thread{'s' if profile.threads != 1 else ''}"
    place = f"{profile.device.provenance} on {profile.device.name} ({where}), {threads}"
    yield escape(f"{profile.file}, {place}, {runtime_text(profile.runtime)}")
