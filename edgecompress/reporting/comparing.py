"""Two sets of figures side by side, and figures against limits: ``compare`` and ``check``.

Figures of different devices, runtimes, threads or provenance are not put beside each other unless asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError, printable
from edgecompress.files import Json, check_version, read_json
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import (
    AnyComparison,
    AnyProfile,
    InstructionComparison,
    InstructionProfile,
    comparison_from,
    profile_from,
)
from edgecompress.profiling.latencies import QUANTILES, Latency, quantiles
from edgecompress.profiling.ratios import apart
from edgecompress.reporting import JSON_NAME, KIND, VERSION
from edgecompress.reporting.markdown import escape
from edgecompress.reporting.wording import (
    NO_DIFFERENCE,
    accuracies,
    bytes_text,
    change,
    interval_of_scores,
    metric_of,
    milliseconds,
    runtime_text,
    score_difference,
    score_text,
    score_verdict,
    time_change,
)
from edgecompress.split_scores import Difference, SplitScore, difference, unpaired

CIRCUMSTANCES = ("device", "processor", "provenance", "runtime", "threads", "batch")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run's folder, its report, or a document of ``profile -o`` says of one compressed model.

    ``comparison`` is against the dense model, ``accuracy`` before and after in the metric's unit on ``items`` items,
    ``lost`` what sets both apart, ``scored`` the score after as it can be paired with that of another run.
    """

    source: Path
    profile: AnyProfile
    comparison: AnyComparison | None
    accuracy: tuple[float | None, float | None] = (None, None)
    metric: Mapping[str, str] | None = None
    items: int = 0
    lost: Difference | None = None
    scored: SplitScore | None = None

    @property
    def latency(self) -> Latency | None:
        """Every run, when taking turns with the dense model if it did; None of an emulated core."""
        if isinstance(self.profile, InstructionProfile):
            return None
        return self.comparison.candidate_latency if isinstance(self.comparison, Comparison) else self.profile.latency

    @property
    def latency_ms(self) -> float | None:
        """Median wall time of one run."""
        found: float | None = self.latency.summary()["wall"]["p50"] if self.latency else None
        return found

    @property
    def circumstances(self) -> Json:
        """What must be equal for figures to compare."""
        device = self.profile.device
        known = (device.name, device.processor, device.provenance, dict(self.profile.runtime))
        return dict(zip(CIRCUMSTANCES, (*known, self.profile.threads, self.profile.batch), strict=True))


def figures_of(path: Path) -> Figures:
    """Figures from a run's folder, its ``report.json``, a profile, or a document of ``profile -o``.

    Raises:
        FileError: it is none of these.
    """
    file = path / JSON_NAME if path.is_dir() else path
    document = read_json(file)
    try:
        found = _of_document(path, document)
        _prove(found)
        return found
    except FileError as error:
        raise FileError(f"{file}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = printable(error)
        raise FileError(f"{file}: neither a report nor a profile ({what} is missing or malformed)") from None


def _of_document(path: Path, document: Json) -> Figures:
    if path.is_dir() or document.get("kind") == KIND:
        check_version(document, KIND, VERSION)
        return _of_report(path, document)
    return Figures(path, profile_from(document.get("profile", document)), _comparison(document))


def _prove(figures: Figures) -> None:
    """Make all that is ever told of figures once: what is malformed is found here, whatever is asked for."""
    side_by_side(figures, figures)
    differences(figures, figures)
    check_table(figures, checks(figures, dict.fromkeys(LIMITS, 1.0)))


def _of_report(path: Path, document: Json) -> Figures:
    metric, pair = metric_of(document), _comparison(document)
    if not document["profiles"]:
        raise FileError("nothing was measured in this run")
    scores = accuracies(document["accuracy"])
    lost = None if None in scores else score_difference(document)
    scored = SplitScore.from_json((document.get("scored") or {}).get("compressed"))
    items = ((document["data"] or {}).get("test") or {}).get("items") or 0
    return Figures(path, profile_from(document["profiles"]["compressed"]), pair, scores, metric, items, lost, scored)


def _comparison(document: Json) -> AnyComparison | None:
    return comparison_from(document["comparison"]) if document.get("comparison") else None


# -- side by side --------------------------------------------------------------------------------------------------


def differences(first: Figures, second: Figures) -> dict[str, tuple[Any, Any]]:
    """The circumstances in which two sets of figures differ."""
    ours, theirs = first.circumstances, second.circumstances
    return {key: (ours[key], theirs[key]) for key in CIRCUMSTANCES if ours[key] != theirs[key]}


def refuse_different(first: Figures, second: Figures) -> None:
    """Figures compare only if they were taken alike.

    Raises:
        FileError: they were not.
    """
    for key, (ours, theirs) in differences(first, second).items():
        raise FileError(
            f"{first.source} and {second.source} do not compare: {key} is {ours} in one and {theirs} in the other; "
            "--anyway shows them side by side nevertheless"
        )


def side_by_side(first: Figures, second: Figures) -> dict[str, tuple[Any, Any]]:
    """Every figure of both, in plain numbers; None where one does not have it."""
    ours, theirs = _figures(first), _figures(second)
    return {name: (ours.get(name), theirs.get(name)) for name in dict.fromkeys([*ours, *theirs])}


def accuracy_difference(first: Figures, second: Figures) -> Difference | None:
    """The second's score minus the first's, paired where both runs kept which items count; None without scores."""
    before, after = first.accuracy[1], second.accuracy[1]
    if before is None or after is None or first.metric != second.metric:
        return None
    if first.scored and second.scored:
        return difference(first.scored, second.scored)
    return unpaired(before, after, first.items if first.items == second.items and (first.metric or {})["unit"] else 0)


def changes(first: Figures, second: Figures) -> dict[str, str]:
    """What became of each figure, in words: of what wavers from run to run only where it surely changed."""
    rows = side_by_side(first, second)
    found = {name: change(*pair) for name, pair in rows.items()}
    found |= {name: time_change(ratio) for name, ratio in time_ratios(first, second).items()}
    starts = {name: [_starts(one, name) for one in (first, second)] for name in ("load_ms", "first_run_ms")}
    found |= {name: NO_DIFFERENCE for name, both in starts.items() if all(both) and not apart(*both)}
    if (scores := accuracy_difference(first, second)) is not None:
        found["accuracy"] = score_verdict(scores, (first.metric or {})["unit"])
    if "speedup_over_dense" in rows and not _clear(first.comparison, second.comparison):
        found["speedup_over_dense"] = NO_DIFFERENCE
    return {name: words for name, words in found.items() if name in rows}


def time_ratios(first: Figures, second: Figures) -> Json:
    """The second's time over the first's by the name of the figure, as ``value`` and ``ci95``; None of too few runs."""
    ours, theirs = first.latency, second.latency
    if ours is None or theirs is None:
        return {}
    ratios = quantiles(theirs.series, ours.series, together=False)
    if ours.cpu_ms and theirs.cpu_ms:
        cpu = quantiles((theirs.cpu_ms, theirs.loads), (ours.cpu_ms, ours.loads), together=False)
        ratios = {**ratios, "cpu": cpu["p50"]}
    names = {**{mark: f"wall_{mark}_ms" for mark in QUANTILES}, "cpu": "cpu_p50_ms"}
    return {names[name]: one.to_json() if one else None for name, one in ratios.items()}


def _starts(one: Figures, name: str) -> tuple[float, ...]:
    cold = None if isinstance(one.profile, InstructionProfile) else one.profile.cold
    found: tuple[float, ...] = getattr(cold, name) if cold else ()
    return found


def _clear(first: AnyComparison | None, second: AnyComparison | None) -> bool:
    """Whether the intervals of two speed-ups lie clear of each other."""
    if not isinstance(first, Comparison) or not isinstance(second, Comparison):
        return True
    return apart((first.wall.low, first.wall.high), (second.wall.low, second.wall.high))


def _figures(one: Figures) -> Json:
    profile = one.profile
    found: Json = {"size_bytes": profile.size_bytes, "zipped_bytes": profile.zipped_bytes, "params": profile.params}
    found |= {"macs": profile.macs, "accuracy": one.accuracy[1]}
    if isinstance(profile, InstructionProfile):
        found["instructions"] = profile.counts.least
    elif one.latency is not None:
        times = one.latency.summary()
        found |= {f"wall_{mark}_ms": times["wall"][mark] for mark in QUANTILES}
        found |= {"cpu_p50_ms": times["cpu"] and times["cpu"]["p50"], "load_ms": profile.load_ms}
        found |= {"first_run_ms": profile.first_run_ms, "peak_rss_bytes": profile.peak_rss_bytes}
    if isinstance(one.comparison, Comparison):
        found["speedup_over_dense"] = one.comparison.wall.value
    if isinstance(one.comparison, InstructionComparison):
        found["instruction_ratio_over_dense"] = one.comparison.ratio
    return {name: value for name, value in found.items() if value is not None}


# -- against limits ------------------------------------------------------------------------------------------------


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


NOT_MEASURED = "not measured"


def checks(figures: Figures, limits: Mapping[str, float]) -> list[Check]:
    """Each of ``limits`` (keys of ``LIMITS``) against the figures; what was not measured is not met."""
    return [LIMITS[name](figures, limit) for name, limit in limits.items()]


def _latency(one: Figures, limit: float) -> Check:
    return _at_most("median latency", one.latency_ms, limit, milliseconds)


def _size(one: Figures, limit: float) -> Check:
    return _at_most("file size", one.profile.size_bytes, limit * 1e6, bytes_text)


def _drop(one: Figures, limit: float) -> Check:
    metric = one.metric or {"name": "accuracy", "unit": " %"}
    name, unit, (before, after) = f"{metric['name']} drop", metric["unit"], one.accuracy
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
    yield "| check | limit | found | |"
    yield "|---|---|---|---|"
    for row in rows:
        verdict = "met" if row.met else f"**missed** {escape(row.missed)}"
        yield f"| {escape(row.name)} | {escape(row.limit)} | {escape(row.found)} | {verdict} |"
    yield ""
    threads = f"{profile.threads} thread{'s' if profile.threads != 1 else ''}"
    place = f"{profile.device.provenance} on {profile.device.name} ({where}), {threads}"
    yield escape(f"{profile.file}, {place}, {runtime_text(profile.runtime)}")
