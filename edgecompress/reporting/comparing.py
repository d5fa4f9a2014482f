"""Two sets of figures side by side: ``compare``.

Figures of different devices, runtimes, threads or provenance are put beside each other only with ``--anyway``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgecompress.errors import FileError, printable
from edgecompress.files import MALFORMED, read_json
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import AnyComparison, InstructionComparison, InstructionProfile
from edgecompress.profiling.latencies import QUANTILES, LatencyStatistics, quantiles
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import Ratio, apart
from edgecompress.reporting import JSON_NAME
from edgecompress.reporting.checking import LIMITS, check_table, checks
from edgecompress.reporting.figures import CIRCUMSTANCES, Figures, figures_in
from edgecompress.reporting.numbers import change
from edgecompress.reporting.wording import NO_DIFFERENCE, circumstance_text, score_verdict, time_change
from edgecompress.split_scores import Difference, difference, unpaired


def figures_of(path: Path) -> Figures:
    """Figures from a run's folder, its ``report.json``, a profile, or a document of ``profile -o``.

    Raises:
        FileError: it is none of these.
    """
    file = path / JSON_NAME if path.is_dir() else path
    document = read_json(file)
    try:
        figures = figures_in(path, document)
        _prove(figures)
        return figures
    except FileError as error:
        raise FileError(f"{file}: {error}") from None
    except MALFORMED as error:
        what = printable(error)
        raise FileError(f"{file}: neither a report nor a profile ({what} is missing or malformed)") from None


def _prove(figures: Figures) -> None:
    """Make all that is ever shown of figures once: what is malformed is noticed here, whatever is shown later."""
    side_by_side(figures, figures)
    differences(figures, figures)
    check_table(figures, checks(figures, dict.fromkeys(LIMITS, 1.0)))


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
            f"{first.source} and {second.source} do not compare: {key} is {circumstance_text(ours)} in one and "
            f"{circumstance_text(theirs)} in the other; "
            "--anyway shows them side by side nevertheless"
        )


def side_by_side(first: Figures, second: Figures) -> dict[str, tuple[Any, Any]]:
    """Every figure of both, as numbers; None where one does not have it."""
    ours, theirs = _figures(first), _figures(second)
    return {name: (ours.get(name), theirs.get(name)) for name in dict.fromkeys([*ours, *theirs])}


def accuracy_difference(first: Figures, second: Figures) -> Difference | None:
    """The second's score minus the first's, paired where both runs kept which items count; None without scores."""
    before, after = first.accuracy[1], second.accuracy[1]
    if before is None or after is None or first.metric != second.metric:
        return None
    if first.scored and second.scored:
        return difference(first.scored, second.scored)
    comparable = first.items == second.items and first.metric is not None and first.metric.unit
    return unpaired(before, after, first.items if comparable else 0)


def changes(first: Figures, second: Figures) -> dict[str, str]:
    """What became of each figure, in words: of what wavers from run to run only where it surely changed."""
    rows = side_by_side(first, second)
    changed = {name: change(*pair) for name, pair in rows.items()}
    changed |= {name: time_change(ratio) for name, ratio in time_ratios(first, second).items()}
    ours, theirs = _starts(first), _starts(second)
    changed |= {name: NO_DIFFERENCE for name in ours.keys() & theirs.keys() if not apart(ours[name], theirs[name])}
    if (scores := accuracy_difference(first, second)) is not None:
        changed["accuracy"] = score_verdict(scores, first.metric.unit if first.metric else "")
    if "speedup_over_dense" in rows and not _clear(first.comparison, second.comparison):
        changed["speedup_over_dense"] = NO_DIFFERENCE
    return {name: words for name, words in changed.items() if name in rows}


def time_ratios(first: Figures, second: Figures) -> dict[str, Ratio | None]:
    """The second's time over the first's by the name of the figure; None of too few runs."""
    ours, theirs = first.latency, second.latency
    if ours is None or theirs is None:
        return {}
    ratios = quantiles(theirs.series, ours.series, together=False)
    if ours.cpu_ms and theirs.cpu_ms:
        cpu = quantiles((theirs.cpu_ms, theirs.loads), (ours.cpu_ms, ours.loads), together=False)
        ratios = {**ratios, "cpu": cpu["p50"]}
    names = {**{mark: f"wall_{mark}_ms" for mark in QUANTILES}, "cpu": "cpu_p50_ms"}
    return {names[name]: one for name, one in ratios.items()}


def _starts(one: Figures) -> dict[str, tuple[float, ...]]:
    cold = None if isinstance(one.profile, InstructionProfile) else one.profile.cold
    return {"load_ms": cold.load_ms, "first_run_ms": cold.first_run_ms} if cold else {}


def _clear(first: AnyComparison | None, second: AnyComparison | None) -> bool:
    """Whether the intervals of two speed-ups lie clear of each other."""
    if not isinstance(first, Comparison) or not isinstance(second, Comparison):
        return True
    return apart((first.wall.low, first.wall.high), (second.wall.low, second.wall.high))


def _figures(one: Figures) -> dict[str, float]:
    profile = one.profile
    figures: dict[str, float | None] = {
        "size_bytes": profile.size_bytes,
        "zipped_bytes": profile.zipped_bytes,
        "params": profile.params,
        "macs": profile.macs,
        "accuracy": one.accuracy[1],
    }
    if isinstance(profile, InstructionProfile):
        figures["instructions"] = profile.counts.least
    elif one.latency is not None:
        figures |= _timed(profile, one.latency.statistics)
    if isinstance(one.comparison, Comparison):
        figures["speedup_over_dense"] = one.comparison.wall.value
    if isinstance(one.comparison, InstructionComparison):
        figures["instruction_ratio_over_dense"] = one.comparison.ratio
    return {name: value for name, value in figures.items() if value is not None}


def _timed(profile: Profile, latency: LatencyStatistics) -> dict[str, float | None]:
    wall, cpu = latency.wall, latency.cpu
    return {
        "wall_p50_ms": wall.p50,
        "wall_p90_ms": wall.p90,
        "wall_p99_ms": latency.p99(wall),
        "cpu_p50_ms": cpu.p50 if cpu else None,
        "load_ms": profile.load_ms,
        "first_run_ms": profile.first_run_ms,
        "peak_rss_bytes": profile.peak_rss_bytes,
    }
