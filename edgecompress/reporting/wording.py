"""Numbers and verdicts in words, the same on the terminal and in the report."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgecompress.files import Json
from edgecompress.profiling.ratios import Ratio
from edgecompress.split_scores import Difference, unpaired

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
        _accuracy_clause(document),
        latency_clause(document["comparison"]),
    )
    return ", ".join(clauses) + "."


def kept_sentences(graph: Json) -> list[str]:
    """What stayed in float32 in a file of fewer bits, a sentence for each reason."""
    kept: Mapping[str, Sequence[str]] = graph.get("kept_float", {})
    return [f"in float32 stayed {_some(names)}: {why}" for why, names in kept.items()]


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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


def _accuracy_clause(document: Json) -> str:
    """Both scores and their difference with its interval, which is called a difference only if it is one."""
    before, after = accuracies(document["accuracy"])
    name, unit = metric_of(document)["name"], metric_of(document)["unit"]
    if before is None or after is None:
        return f"{name} not measured"
    apart = score_difference(document)
    scores = f"{score_text(before, unit)} -> {score_text(after, unit)} ({interval_of_scores(apart, unit)})"
    return f"{name} {scores}" if apart.resolved or not apart.interval else f"{NO_DIFFERENCE} in {name}: {scores}"


def score_difference(document: Json) -> Difference:
    """What sets the two scores of a run apart, which are known."""
    known: Json | None = document.get("accuracy_difference")
    if known:
        return Difference.from_json(known)
    before, after = accuracies(document["accuracy"])
    if before is None or after is None:
        raise ValueError("scores that are not known have no difference")
    items = ((document["data"] or {}).get("test") or {}).get("items") or 0
    return unpaired(before, after, items if metric_of(document)["unit"] else 0)


def interval_of_scores(apart: Difference, unit: str) -> str:
    """A difference of scores with its 95 % interval, or why there is none."""
    change = score_change(0.0, apart.value, unit)
    if apart.interval is None:
        return f"{change}; no interval: {apart.why_not}"
    low, high = (f"{mark:+.2f}" if unit else f"{mark:+.5g}" for mark in apart.interval)
    wider = f" or wider, {apart.why_not}" if apart.why_not else ""
    return f"{change}, 95 % interval {low} to {high}{wider}"


def score_verdict(apart: Difference, unit: str) -> str:
    """The same, after whether there is a difference at all."""
    unmeasurable = apart.interval is not None and not apart.resolved
    return f"{f'{NO_DIFFERENCE}: ' if unmeasurable else ''}{interval_of_scores(apart, unit)}"


def accuracies(accuracy: Json | None) -> tuple[float | None, float | None]:
    """Of the dense model and of the last stage that was scored, the exported file if possible."""
    known = accuracy or {}
    scored = (known.get(stage) for stage in ("artifact", "finetuned", "decomposed"))
    return known.get("dense"), next((score for score in scored if score is not None), None)


def latency_clause(comparison: Json | None) -> str:
    """The verdict on latency with its interval and where it was taken; of an emulated core, instructions instead."""
    if comparison is None:
        return "latency not measured"
    if is_counted(comparison):
        return _instruction_clause(comparison)
    if comparison["provenance"] != "measured":
        return f"no claim on latency: {emulated_times(comparison)}"
    return _measured_clause(comparison) + verified_on_arm(comparison, ", {}") + _caveat(comparison["unstable"])


def is_counted(comparison: Json | None) -> bool:
    """Whether it is of instructions, not of time."""
    return comparison is not None and comparison["unit"] == "instructions"


def _measured_clause(comparison: Json) -> str:
    place, wall = place_of(comparison), ratio_of(comparison, "wall")
    if wall is None:
        raise ValueError("a comparison without wall time")
    if comparison["verdict"] == "no claim":
        cpu = ratio_of(comparison, "cpu")
        also = f", of CPU time {interval_text(*cpu)}" if cpu else ""
        return f"{NO_DIFFERENCE} in latency: speed-up of wall time {interval_text(*wall)}{also}, on {place}"
    value, low, high = wall
    if comparison["verdict"] == "slower":
        value, low, high = 1 / value, 1 / high, 1 / low
    return f"measured {interval_text(value, low, high, comparison['verdict'])} on {place}"


def _caveat(reasons: Sequence[str]) -> str:
    return f", but the times were unstable ({'; '.join(reasons)})" if reasons else ""


def verified_on_arm(comparison: Json | None, form: str = "{}") -> str:
    """The words that only a gain measured on an ARM device may carry, in ``form``; else nothing."""
    if comparison is None or comparison["verified_on_arm"] is not True:
        return ""
    return form.format("gain verified on ARM")


def emulated_times(comparison: Json) -> str:
    """Why times of an emulator are worth nothing."""
    how = comparison["provenance"]
    return f"times on {place_of(comparison)} are {how}, and an emulator's clock says nothing of a device's"


def _instruction_clause(comparison: Json) -> str:
    before, after = (comparison[f"{model}_counts"]["least"] for model in ("baseline", "candidate"))
    batch, runtime = comparison["batch"], runtime_text(comparison["runtime"])
    where = f"under {core_of(comparison)}{f', batch {batch}' if batch != 1 else ''}, {runtime}"
    counts = f"({count_text(before)} -> {count_text(after)})"
    return f"emulated: {fewer_instructions(comparison)} {counts} {where}; instructions are not time"


def fewer_instructions(comparison: Json) -> str:
    """The ratio of instructions in words."""
    ratio = comparison["instruction_ratio"]
    if abs(ratio - 1) < 5e-4:
        return "as many instructions as before"
    return f"{ratio:.2f}x fewer instructions" if ratio > 1 else f"{1 / ratio:.2f}x more instructions"


def core_of(comparison: Json) -> str:
    """The emulated core by name."""
    core: str = comparison["candidate_counts"]["cpu"]
    return core


def verdict_of(comparison: Json | None) -> str:
    """The verdict on latency in two or three words."""
    if comparison is None:
        return "not measured"
    verdict: str = comparison["verdict"]
    return verdict if comparison["provenance"] == "measured" else f"{verdict} ({comparison['provenance']})"


def ratio_of(comparison: Json, clock: str) -> tuple[float, float, float] | None:
    """Baseline over candidate time and the ends of its interval; None where the device does not tell that clock."""
    prefix = "" if clock == "wall" else f"{clock}_"
    if comparison[f"{prefix}ci95"] is None:
        return None
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
    parts = [where, "1 thread" if threads == 1 else f"{threads} threads"]
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


NO_DIFFERENCE, TOO_FEW = "no measurable difference", "not compared: too few runs"


def time_change(ratio: Json | None) -> str:
    """The relative change of a time in percent with its 95 % interval, if that lies clear of none.

    ``ratio`` is after over before, as ``value`` and ``ci95``; None of too few runs.
    """
    if ratio is None:
        return TOO_FEW
    if not Ratio(ratio["value"], *ratio["ci95"]).resolved:
        return NO_DIFFERENCE
    value, low, high = (minus(f"{100 * (mark - 1):+.1f}") for mark in (ratio["value"], *ratio["ci95"]))
    return f"{value} % ({low} to\N{NO-BREAK SPACE}{high})"


def minus(text: str) -> str:
    """The sign, where a hyphen stands for it at the start."""
    return "−" + text[1:] if text.startswith("-") else text


def typeset(findings: str) -> str:
    """Arrow, minus and times sign in place of their ASCII forms, and no line break before a percent sign."""
    signs = findings.replace(" -> ", " → ").replace("(-", "(−")
    return re.sub(r"(\d\.\d+)x\b", r"\1×", signs).replace(" %", "\N{NO-BREAK SPACE}%")


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
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(part)}" for key, part in value.items()) or "none"
    return str(value)


MEASURES: Mapping[str, Callable[[float], str]] = {
    "_mhz": lambda value: f"{value:,.0f} MHz",
    "_c": lambda value: f"{value:.1f} °C",
    "_bytes": bytes_text,
}
"""How a fact of a device is written, by the end of its key."""


def fact(key: str, value: object) -> tuple[str, str]:
    """What a device tells of itself: a label without the unit, and the value with it."""
    suffix = next((end for end in MEASURES if key.endswith(end)), "")
    label = key.removesuffix(suffix).replace("_", " ").capitalize().replace("Cpus", "CPUs")
    if value is None:
        return label, "not told"
    if suffix and isinstance(value, int | float):
        return label, MEASURES[suffix](value)
    return label, f"{value:.4g}" if isinstance(value, float) else plain(value)


@dataclass(frozen=True, slots=True)
class Unit:
    """How a quantity is shown, and in full where that is longer."""

    show: Callable[[float], str]
    exact: Callable[[float], str] = lambda _: ""

    def text(self, value: float | None) -> str:
        """The value, or that it is not known."""
        return "not measured" if value is None else self.show(value)

    def in_full(self, value: float | None) -> str:
        """The exact value, or nothing."""
        return "" if value is None else self.exact(value)


COUNT = Unit(count_text, grouped)
BYTES = Unit(bytes_text, lambda size: f"{size:,} bytes")
TIME = Unit(milliseconds)
