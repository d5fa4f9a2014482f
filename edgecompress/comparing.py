"""Two sets of figures side by side, and figures against limits: ``compare`` and ``check``.

Figures of different devices, runtimes, threads or provenance are not put beside each other unless asked to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json
from edgecompress.instructions import (
    AnyComparison,
    AnyProfile,
    InstructionComparison,
    InstructionProfile,
    comparison_from,
    profile_from,
)
from edgecompress.profiles import Comparison
from edgecompress.reporting import JSON_NAME, KIND, VERSION
from edgecompress.wording import accuracies, bytes_text, metric_of, milliseconds, runtime_text, score_change, score_text

CIRCUMSTANCES = ("device", "processor", "provenance", "runtime", "threads", "batch")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run's folder, its report, or a document of ``profile -o`` says of one compressed model.

    ``comparison`` is against the dense model, ``accuracy`` before and after in the metric's unit.
    """

    source: Path
    profile: AnyProfile
    comparison: AnyComparison | None
    accuracy: tuple[float | None, float | None] = (None, None)
    metric: Mapping[str, str] | None = None

    @property
    def latency_ms(self) -> float | None:
        """Median wall time of one run, when taking turns with the dense model if it did."""
        if isinstance(self.profile, InstructionProfile):
            return None
        taken = self.comparison.candidate_latency if isinstance(self.comparison, Comparison) else self.profile.latency
        found: float = taken.summary()["wall"]["p50"]
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
        if path.is_dir() or document.get("kind") == KIND:
            check_version(document, KIND, VERSION)
            return _of_report(path, document)
        return Figures(path, profile_from(document.get("profile", document)), _comparison(document))
    except FileError as error:
        raise FileError(f"{file}: {error}") from None
    except (AttributeError, KeyError, TypeError) as error:
        raise FileError(f"{file}: neither a report nor a profile ({error} is missing or malformed)") from None


def _of_report(path: Path, document: Json) -> Figures:
    metric, pair = metric_of(document), _comparison(document)
    if not document["profiles"]:
        raise FileError("nothing was measured in this run")
    return Figures(
        path, profile_from(document["profiles"]["compressed"]), pair, accuracies(document["accuracy"]), metric
    )


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


def _figures(one: Figures) -> Json:
    profile = one.profile
    found: Json = {"size_bytes": profile.size_bytes, "zipped_bytes": profile.zipped_bytes, "params": profile.params}
    found |= {"macs": profile.macs, "accuracy": one.accuracy[1], "wall_p50_ms": one.latency_ms}
    if isinstance(profile, InstructionProfile):
        found["instructions"] = profile.counts.least
    else:
        cpu = profile.latency.summary()["cpu"]
        found |= {"cpu_p50_ms": cpu and cpu["p50"], "load_ms": profile.load_ms}
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
    if before is None or after is None:
        return Check(name, f"at most {limit:g}{points}", NOT_MEASURED, NOT_MEASURED)
    over = before - after - limit
    found = f"{score_text(before, unit)} -> {score_text(after, unit)} ({score_change(before, after, unit)})"
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
        yield f"| {row.name} | {row.limit} | {row.found} | {'met' if row.met else f'**missed** {row.missed}'} |"
    yield ""
    threads = f"{profile.threads} thread{'s' if profile.threads != 1 else ''}"
    place = f"{profile.device.provenance} on {profile.device.name} ({where}), {threads}"
    yield f"{profile.file}, {place}, {runtime_text(profile.runtime)}"
