"""Numbers and verdicts in words, the same on the terminal and in the report."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from edgecompress.files import Json

ROLES = ("dense", "compressed")
RUNTIME_TITLES = {"onnxruntime": "ONNX Runtime"}


def summary_sentence(document: Json) -> str:
    """What the run achieved and what it cost, in one sentence that hides no loss."""
    return f"{document['model']}: {findings(document)}"


def findings(document: Json) -> str:
    """Cost, accuracy and latency in clauses, without the model's name."""
    before, after = (document["cost"][role] for role in ROLES)
    clauses = (
        _fewer(before["macs"], after["macs"], "MACs"),
        _fewer(before["params"], after["params"], "parameters"),
        _accuracy_clause(document["accuracy"], metric_of(document)),
        latency_clause(document["comparison"]),
    )
    return ", ".join(clauses) + "."


def _fewer(before: int, after: int, what: str) -> str:
    if before == after:
        return f"as many {what} as before"
    percent = abs(after / before - 1) * 100
    return f"{percent:.1f} % {'fewer' if after < before else 'more'} {what}"


def metric_of(document: Json) -> Mapping[str, str]:
    """Name and unit of the task score."""
    metric: Mapping[str, str] = document.get("metric") or {"name": "accuracy", "unit": " %"}
    return metric


def score_text(value: float, unit: str) -> str:
    """A score with its unit: two decimals of percent, or five digits of anything else."""
    return f"{value:.2f}{unit}" if unit else f"{value:.5g}"


def score_change(before: float, after: float, unit: str) -> str:
    """The difference of two scores, in points where they are percent."""
    return f"{after - before:+.2f} points" if unit else f"{after - before:+.5g}"


def _accuracy_clause(accuracy: Json | None, metric: Mapping[str, str]) -> str:
    before, after = accuracies(accuracy)
    name, unit = metric["name"], metric["unit"]
    if before is None or after is None:
        return f"{name} not measured"
    return f"{name} {score_text(before, unit)} -> {score_text(after, unit)} ({score_change(before, after, unit)})"


def accuracies(accuracy: Json | None) -> tuple[float | None, float | None]:
    """Of the dense model and of the last stage that was scored, the exported file if possible."""
    known = accuracy or {}
    scored = (known.get(stage) for stage in ("artifact", "finetuned", "decomposed"))
    return known.get("dense"), next((score for score in scored if score is not None), None)


def latency_clause(comparison: Json | None) -> str:
    """The verdict on latency with its interval and where it was taken."""
    if comparison is None:
        return "latency not measured"
    how, place = comparison["provenance"], place_of(comparison)
    if comparison["verdict"] == "no claim":
        kind = "latency" if how == "measured" else f"{how} latency"
        wall, cpu = (interval_text(*ratio_of(comparison, clock)) for clock in ("wall", "cpu"))
        return f"no measurable difference in {kind}: speed-up of wall time {wall}, of CPU time {cpu}, {place}"
    value, low, high = ratio_of(comparison, "wall")
    if comparison["verdict"] == "slower":
        value, low, high = 1 / value, 1 / high, 1 / low
    return f"{how} {interval_text(value, low, high, comparison['verdict'])} {place}"


def ratio_of(comparison: Json, clock: str) -> tuple[float, float, float]:
    """Baseline over candidate time and the ends of its interval."""
    prefix = "" if clock == "wall" else f"{clock}_"
    low, high = comparison[f"{prefix}ci95"]
    return comparison[f"{prefix}speedup"], low, high


def interval_text(value: float, low: float, high: float, verdict: str = "") -> str:
    """A ratio and its interval, with a third decimal where two would not tell it from 1."""
    decimals = 3 if min(abs(mark - 1) for mark in (value, low, high)) < 0.02 else 2
    words = f" {verdict}" if verdict else ""
    return f"{value:.{decimals}f}x{words} (95 % interval {low:.{decimals}f} to {high:.{decimals}f})"


def place_of(comparison: Json) -> str:
    """Device, threads, batch and runtime."""
    device, threads, batch = comparison["device"], comparison["threads"], comparison["batch"]
    processor = device["processor"] or device["machine"] or "an unnamed processor"
    where = processor if device["name"] == "local" else f"{device['name']} ({processor})"
    parts = [f"on {where}", "1 thread" if threads == 1 else f"{threads} threads"]
    parts += [f"batch {batch}"] if batch != 1 else []
    return ", ".join([*parts, runtime_text(comparison["runtime"])])


def runtime_text(runtime: Mapping[str, str]) -> str:
    """Name and version of a runtime."""
    name = runtime.get("name", "unnamed runtime")
    return f"{RUNTIME_TITLES.get(name, name)} {runtime.get('version', '')}".strip()


def significant(value: float, digits: int = 4) -> str:
    """Decimal notation with about ``digits`` significant digits."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"


def _scaled(value: float, prefixes: Sequence[str]) -> str:
    """A number with a decimal prefix: 40.55 M."""
    step = min(len(prefixes) - 1, int(math.log10(abs(value)) // 3)) if abs(value) >= 1000 else 0
    number = significant(value / 1000**step) if step else f"{value:g}"
    return f"{number} {prefixes[step]}".strip()


def count_text(value: float) -> str:
    """A count with a decimal prefix."""
    return _scaled(value, ("", "k", "M", "G", "T"))


def bytes_text(value: float) -> str:
    """A size with a decimal unit."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def grouped(value: float | None) -> str:
    """A number with its thousands apart, or that it was not counted."""
    return "not counted" if value is None else f"{value:,}"


def milliseconds(value: float) -> str:
    """A time with its unit."""
    return f"{significant(value)} ms"


def change(before: float | None, after: float | None) -> str:
    """The relative change in percent, as words where there is none."""
    if before is None or after is None or before == 0:
        return ""
    percent = (after / before - 1) * 100
    if percent == 0:
        return "no change"
    return minus(f"{percent:+.1f} %" if abs(percent) >= 0.05 else f"{percent:+.1g} %")


def minus(text: str) -> str:
    """The sign, where a hyphen stands for it at the start."""
    return "−" + text[1:] if text.startswith("-") else text


def typeset(findings: str) -> str:
    """Arrow, minus and times sign in place of their ASCII forms, and no line break before a percent sign."""
    signs = findings.replace(" -> ", " → ").replace("(-", "(−")
    return re.sub(r"(\d)x( \w+)? \(95 %", r"\1×\2 (95 %", signs).replace(" %", "\N{NO-BREAK SPACE}%")


def scientific(value: float) -> str:
    """Two significant digits."""
    return minus(f"{value:.2g}")


def plain(value: object) -> str:
    """An option's value in words."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
