"""Verdicts in sentences, the same on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgecompress.artifacts import SQNR_OF_EQUAL_DB
from edgecompress.files import Json
from edgecompress.profiling.comparisons import FilePair, TimedPair
from edgecompress.profiling.instruction_counts import InstructionComparison
from edgecompress.profiling.latencies import Sustained
from edgecompress.profiling.ratios import Ratio
from edgecompress.reporting.numbers import bytes_text, count_text, minus, score_change, score_text
from edgecompress.reporting.scores import Nearness, SeenAs
from edgecompress.split_scores import Difference

if TYPE_CHECKING:
    from edgecompress.reporting.document import Compression, Report
    from edgecompress.reporting.entries import BundleEntry

RUNTIME_TITLES = {"onnxruntime": "ONNX Runtime"}
FIGURES = {
    "size_bytes": "file, bytes",
    "zipped_bytes": "file, zipped, bytes",
    "params": "parameters",
    "macs": "MACs of one input",
    "wall_p50_ms": "wall time p50, ms",
    "wall_p90_ms": "wall time p90, ms",
    "wall_p99_ms": "wall time p99, ms",
    "cpu_p50_ms": "CPU time p50, ms",
    "load_ms": "load time, ms",
    "first_run_ms": "first run, ms",
    "peak_rss_bytes": "peak memory, bytes",
    "instructions": "instructions of one inference",
    "speedup_over_dense": "speed-up over its dense model",
    "instruction_ratio_over_dense": "instructions, dense over compressed",
}
"""Figures of ``compare`` in words; the score has the name of its metric."""
UNKNOWN_COST = "what it cost was not measured"
SEEN: Mapping[SeenAs, str] = {
    "fresh": "test inputs that nothing was fitted to",
    "fitted": "calibration inputs, which the factors were fitted to",
    "made": "inputs made of the example and noise",
}
NO_DIFFERENCE, TOO_FEW = "no measurable difference", "not compared: too few runs"


def layer_label(name: str) -> str:
    """A layer in tables; a model that owns weights itself, as a class token, is one without a name."""
    return name or "(the model itself)"


def summary_sentence(report: Report) -> str:
    """What the run achieved and what it cost, in one sentence that hides no loss."""
    return f"{report.model}: {findings(report)}"


def findings(report: Report) -> str:
    """Cost, accuracy and latency in clauses, without the model's name; outputs that are lost come first."""
    before, after = report.cost
    clauses = (
        lost_clause(report.outputs),
        _fewer(before.macs, after.macs, "MACs"),
        _fewer(before.params, after.params, "parameters"),
        _accuracy_clause(report),
        latency_clause(report.comparison),
    )
    return ", ".join(clause for clause in clauses if clause) + "."


def cost_of_speed(made: Compression) -> str:
    """What a compressed model lost, as it stands beside every claim that it is faster."""
    apart, unit = made.score_difference, made.metric.unit
    if apart is not None:
        words = interval_of_scores(apart, unit)
        unmeasurable = apart.interval is not None and not apart.resolved
        return f"{NO_DIFFERENCE} in {made.metric.name}: {words}" if unmeasurable else f"{made.metric.name} {words}"
    return UNKNOWN_COST if made.outputs is None else f"outputs {nearness_text(made.outputs)}"


def size_sentence(bundle: BundleEntry) -> str:
    """The bytes that an app grows by: the model's beside those of the library that runs it."""
    model, library = bytes_text(bundle.model_bytes), f"{bundle.runtime} {bundle.version or ''}".strip()
    if bundle.library_bytes is None:
        return f"{bundle.platform}: the model takes {model}; what {library} takes is not known"
    packed = bundle.library_bytes_compressed
    loaded = f", {bytes_text(packed)} as it is downloaded" if packed is not None else ""
    return f"{bundle.platform}: the model takes {model}, {library} {bytes_text(bundle.library_bytes)}{loaded}"


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


# -- scores ----------------------------------------------------------------------------------------------------------


def _accuracy_clause(report: Compression) -> str:
    """Both scores and their difference with its interval, which is called a difference only if it is one."""
    before, after = report.before_and_after
    name, unit, apart = report.metric.name, report.metric.unit, report.score_difference
    if before is None or after is None or apart is None:
        near = report.outputs
        return f"{name} not measured" if near is None else f"outputs {nearness_text(near)}; {name} not measured"
    scores = f"{score_text(before, unit)} -> {score_text(after, unit)} ({interval_of_scores(apart, unit)})"
    return f"{name} {scores}" if apart.resolved or not apart.interval else f"{NO_DIFFERENCE} in {name}: {scores}"


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


# -- outputs ---------------------------------------------------------------------------------------------------------


def nearness_text(near: Nearness) -> str:
    """How near outputs are, in one clause with what they were compared on."""
    return f"{_near(near)} on {near.inputs:,} {SEEN[near.seen]}"


def agreement_text(near: Nearness) -> str:
    """The share of answers that stay the same; outputs that are no scores of classes have none."""
    return "" if near.agreement is None else f"{100 * near.agreement:.1f} %"


def sqnr_text(value: float) -> str:
    """In decibels."""
    return "unchanged" if value >= SQNR_OF_EQUAL_DB else f"{value:.1f} dB"


def lost_clause(near: Nearness | None) -> str:
    """That little is left of the dense outputs, if so; else nothing."""
    if near is None or not near.lost:
        return ""
    return f"the outputs are no longer those of the dense model ({_near(near)})"


def _near(near: Nearness) -> str:
    same = "" if near.agreement is None else f", {agreement_text(near)} of answers the same"
    return f"SQNR {sqnr_text(near.sqnr_db)}{same}"


# -- latency ---------------------------------------------------------------------------------------------------------


def latency_clause(pair: TimedPair | InstructionComparison | None) -> str:
    """The verdict on latency with its interval and where it was taken; of an emulated core, instructions instead."""
    match pair:
        case None:
            return "latency not measured"
        case InstructionComparison():
            return _instruction_clause(pair)
        case TimedPair() if pair.device.provenance != "measured":
            return f"no claim on latency: {emulated_times(pair)}"
        case TimedPair():
            return _measured_clause(pair) + verified_on_arm(pair, ", {}") + _caveat(pair.unstable)


def _measured_clause(pair: TimedPair) -> str:
    place, verdict, wall = place_of(pair), pair.verdict, pair.wall
    if verdict == "no claim":
        also = f", of CPU time {interval_text(pair.cpu)}" if pair.cpu else ""
        return f"{NO_DIFFERENCE} in latency: speed-up of wall time {interval_text(wall)}{also}, on {place}"
    return f"measured {interval_text(wall.inverse if verdict == 'slower' else wall, verdict)} on {place}"


def _caveat(reasons: Sequence[str]) -> str:
    return f", but the times were unstable ({'; '.join(reasons)})" if reasons else ""


def verified_on_arm(pair: TimedPair | InstructionComparison | None, form: str = "{}") -> str:
    """The words that only a gain measured on an ARM device may carry, in ``form``; else nothing."""
    return form.format("gain verified on ARM") if isinstance(pair, TimedPair) and pair.verified_on_arm else ""


def emulated_times(pair: FilePair) -> str:
    """Why times of an emulator are worth nothing."""
    how = pair.device.provenance
    return f"times on {place_of(pair)} are {how}, and an emulator's clock says nothing of a device's"


def _instruction_clause(pair: InstructionComparison) -> str:
    batch, runtime = pair.batch, runtime_text(pair.runtime)
    where = f"under {core_of(pair)}{f', batch {batch}' if batch != 1 else ''}, {runtime}"
    counts = f"({count_text(pair.baseline_counts.least)} -> {count_text(pair.candidate_counts.least)})"
    return f"emulated: {fewer_instructions(pair)} {counts} {where}; instructions are not time"


def fewer_instructions(pair: InstructionComparison) -> str:
    """The ratio of instructions in words."""
    ratio = pair.ratio
    if abs(ratio - 1) < 5e-4:
        return "as many instructions as before"
    return f"{ratio:.2f}x fewer instructions" if ratio > 1 else f"{1 / ratio:.2f}x more instructions"


def core_of(pair: InstructionComparison) -> str:
    """The emulated core by name."""
    return pair.candidate_counts.cpu


def verdict_of(pair: TimedPair | InstructionComparison | None) -> str:
    """The verdict on latency in two or three words."""
    if pair is None:
        return "not measured"
    provenance = pair.device.provenance
    return pair.verdict if provenance == "measured" else f"{pair.verdict} ({provenance})"


def interval_text(ratio: Ratio, verdict: str = "") -> str:
    """A ratio and its interval, with a third decimal where two would show it as 1."""
    decimals = 3 if min(abs(mark - 1) for mark in (ratio.value, *ratio.ci95)) < 0.02 else 2
    words = f" {verdict}" if verdict else ""
    return f"{ratio.value:.{decimals}f}x{words} (95 % interval {ratio.low:.{decimals}f} to {ratio.high:.{decimals}f})"


def time_change(ratio: Ratio | None) -> str:
    """The relative change of a time in percent with its 95 % interval, if that lies clear of none.

    ``ratio`` is after over before; None of too few runs.
    """
    if ratio is None:
        return TOO_FEW
    if not ratio.resolved:
        return NO_DIFFERENCE
    value, low, high = (minus(f"{100 * (mark - 1):+.1f}") for mark in (ratio.value, *ratio.ci95))
    return f"{value} % ({low} to\N{NO-BREAK SPACE}{high})"


def place_of(pair: FilePair) -> str:
    """Device, threads, batch and runtime."""
    device, threads, batch = pair.device, pair.threads, pair.batch
    processor = device.processor or device.machine or "an unnamed processor"
    where = processor if device.name == "local" else f"{device.name} ({processor})"
    parts = [where, "1 thread" if threads == 1 else f"{threads} threads"]
    parts += [f"batch {batch}"] if batch != 1 else []
    parts += [tokens_text(pair.length, pair.past)] if pair.length is not None else []
    return ", ".join([*parts, runtime_text(pair.runtime)])


def tokens_text(length: int, past: int | None) -> str:
    """``128 tokens``, or ``1 token after 128`` of a file with a KV cache."""
    return f"{length:,} token{'s' * (length != 1)}{'' if past is None else f' after {past:,}'}"


def runtime_text(runtime: Mapping[str, str]) -> str:
    """Name and version of a runtime."""
    name = runtime.get("name", "unnamed runtime")
    return f"{RUNTIME_TITLES.get(name, name)} {runtime.get('version', '')}".strip()


def circumstance_text(value: object) -> str:
    """Device, runtime, threads and the like, of one side."""
    return runtime_text(value) if isinstance(value, Mapping) else str(value)


def drift_text(run: Sustained) -> str:
    """Whether the last fifth of the windows took as long as the first, in words."""
    drift = run.drift
    interval = f"last fifth over first fifth {drift.value:.3f}, 95 % interval {drift.low:.3f} to {drift.high:.3f}"
    if not drift.resolved:
        return f"steady ({interval})"
    words = "slower" if drift.value > 1 else "faster"
    return f"{minus(f'{abs(drift.value - 1) * 100:.1f} %')} {words} at the end than at the start ({interval})"
