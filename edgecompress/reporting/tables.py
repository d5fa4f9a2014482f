"""The report's tables before and after, and of the plans that were tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from edgecompress.plans import Cost
from edgecompress.profiling.comparisons import TimedPair
from edgecompress.profiling.instruction_counts import AnyComparison, InstructionComparison
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import apart
from edgecompress.reporting.document import Report
from edgecompress.reporting.entries import TriedPlan
from edgecompress.reporting.numbers import BYTES, COUNT, TIME, Unit, change, minus, score_text
from edgecompress.reporting.pairs import Known, Pair
from edgecompress.reporting.scores import Nearness, TaskMetric
from edgecompress.reporting.table import Row, Table
from edgecompress.reporting.wording import (
    NO_DIFFERENCE,
    SEEN,
    agreement_text,
    core_of,
    place_of,
    score_verdict,
    sqnr_text,
    time_change,
)

# -- before and after ------------------------------------------------------------------------------------------------


def before_and_after(report: Report) -> list[tuple[str, list[Row]]]:
    """Groups of rows, each with its title."""
    pair = report.comparison
    groups = [
        ("Task", [_accuracy_row(report), *_output_rows(report.outputs)]),
        ("Model", list(_model_rows(report.cost))),
        ("Exported file", list(_file_rows(report))),
    ]
    if isinstance(pair, InstructionComparison):
        title = f"Instructions under {core_of(pair)} (emulated; no time)"
        return [*groups, (title, list(_instruction_rows(pair)))]
    groups.append((_latency_title(pair), list(_latency_rows(pair))))
    alone = [("Each model alone in a process of its own", list(_process_rows(both)))] if (both := timed(report)) else []
    return [*groups, *alone]


def timed(report: Report) -> Pair[Profile] | None:
    """Both models' profiles, where they hold times."""
    dense, compressed = report.profiles or (None, None)
    return Pair(dense, compressed) if isinstance(dense, Profile) and isinstance(compressed, Profile) else None


def _latency_title(pair: TimedPair | None) -> str:
    if pair and pair.device.provenance != "measured":
        return f"Time, {pair.device.provenance}: not the latency of any device"
    return "Latency, taking turns in one process"


def _accuracy_row(report: Report) -> Row:
    metric, test, scores = report.metric, report.test, Pair(*report.before_and_after)
    unit = Unit(lambda score: score_text(score, metric.unit))
    label = f"{metric.title} on {test.items:,} test items" if test else metric.title
    difference = report.score_difference
    verdict = minus(score_verdict(difference, metric.unit)) if difference else ""
    return Row(label, unit.text(scores.dense), unit.text(scores.compressed), verdict)


def _output_rows(near: Nearness | None) -> Iterator[Row]:
    """How near the outputs are to the dense model's; nothing in reports of before that was compared."""
    if near is not None:
        on = f"on {near.inputs:,} {SEEN[near.seen]}"
        yield Row("Outputs against the dense model's, SQNR", "", sqnr_text(near.sqnr_db), on)
        if near.agreement is not None:
            yield Row("Answers that stay the dense model's", "", agreement_text(near), on)


def _model_rows(cost: Pair[Cost]) -> Iterator[Row]:
    yield Row.of("Parameters", cost.map(lambda one: one.params), COUNT)
    yield Row.of("MACs of one input", cost.map(lambda one: one.macs), COUNT)
    yield Row.of("FLOPs of one input (2 × MACs)", cost.map(lambda one: one.flops), COUNT)
    yield Row.of("Weights (parameters and buffers)", cost.map(lambda one: one.weight_bytes), BYTES)


def _file_rows(report: Report) -> Iterator[Row]:
    files, profiles = report.files, report.profiles
    weights: Known = profiles.map(lambda profile: profile.weight_bytes) if profiles else Pair(None, None)
    yield Row.of("File size", files.map(lambda file: file.size_bytes if file else None), BYTES)
    yield Row.of("Zipped size (DEFLATE)", files.map(lambda file: file.zipped_bytes if file else None), BYTES)
    yield Row.of("Weights within the file", weights, BYTES)


def _instruction_rows(pair: InstructionComparison) -> Iterator[Row]:
    counts = Pair(pair.baseline_counts, pair.candidate_counts)
    yield Row.of("Instructions of one inference", counts.map(lambda count: count.least), COUNT)
    yield Row.of("Instructions of loading the file", counts.map(lambda count: count.load), COUNT)
    yield Row("Instructions, dense over compressed", "1×", f"{pair.ratio:.3f}×", "")


def _latency_rows(pair: TimedPair | None) -> Iterator[Row]:
    if pair is None:
        yield Row("Latency", "not measured", "not measured", "")
        return
    before, after = pair.baseline_latency.statistics, pair.candidate_latency.statistics
    changes = {mark: time_change(ratio) for mark, ratio in pair.quantiles().items()}
    yield Row.of("Wall time, p50", Pair(before.wall.p50, after.wall.p50), TIME, changes.get("p50", ""))
    yield Row.of("Wall time, p90", Pair(before.wall.p90, after.wall.p90), TIME, changes.get("p90", ""))
    slowest = Pair(before.p99(before.wall), after.p99(after.wall))
    if None not in slowest:
        yield Row.of("Wall time, p99", slowest, TIME, changes.get("p99", ""))
    yield Row.of("Wall time, min", Pair(before.wall.min, after.wall.min), TIME, "")
    if pair.cpu and before.cpu and after.cpu:
        yield Row.of("CPU time, p50", Pair(before.cpu.p50, after.cpu.p50), TIME, time_change(pair.cpu.inverse))
    for ratio, name in ((pair.wall, "wall"), (pair.cpu, "CPU")):
        if ratio:
            label = f"Speed-up, {name} time (95 % interval)"
            yield Row(label, "1×", f"{ratio.value:.3f}×", f"{ratio.low:.3f} to\N{NO-BREAK SPACE}{ratio.high:.3f}")


def _process_rows(profiles: Pair[Profile]) -> Iterator[Row]:
    yield _start_row("Load time", profiles.map(lambda one: one.cold.load_ms if one.cold else ()))
    yield _start_row("First run", profiles.map(lambda one: one.cold.first_run_ms if one.cold else ()))
    yield Row.of("Wall time, p50", profiles.map(lambda one: one.latency.statistics.wall.p50), TIME, "")
    yield Row.of("Peak memory (RSS)", profiles.map(lambda one: one.peak_rss_bytes), BYTES)
    yield Row.of("… of which before loading", profiles.map(lambda one: one.runtime_rss_bytes), BYTES)


def _start_row(label: str, starts: Pair[tuple[float, ...]]) -> Row:
    """The medians of a few starts, which are compared only where all of one lie on one side of the other's."""
    values = starts.map(lambda times: median(times) if times else None)
    return Row.of(label, values, TIME, change(*values) if apart(*starts) else NO_DIFFERENCE if all(starts) else "")


# -- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A plan as it is numbered and marked in the table and the charts; the dense model has number 0."""

    number: int
    mark: Literal["dense", "chosen", "other"]
    plan: TriedPlan

    @property
    def title(self) -> str:
        """Its name with the number, and what it is."""
        if self.mark == "dense":
            return f"{self.plan.name} (reference)"
        return f"{self.number}. {self.plan.name}{' (chosen)' if self.mark == 'chosen' else ''}"


def plans(report: Report) -> list[PlanRow]:
    """The dense model, then every plan tried, numbered; this run's own if none of them is the chosen one."""
    tried, place = report.tried, place_of(report.comparison) if report.comparison else ""
    own, dense = _own_plans(report, place)
    if not any(plan.chosen for plan in tried):
        tried = (*tried, own)
    place = next(plan.place for plan in tried if plan.chosen)
    numbered = enumerate(tried, 1)
    rows = [PlanRow(number, "chosen" if plan.chosen else "other", plan) for number, plan in numbered]
    return [PlanRow(0, "dense", replace(dense, place=place)), *rows]


def _own_plans(report: Report, place: str) -> tuple[TriedPlan, TriedPlan]:
    """What this run's own plan and the dense model came to."""
    dense, compressed = (
        TriedPlan("", name, score, cost.macs, file.size_bytes if file else None, wall_ms, place, name == "this run")
        for name, score, cost, file, wall_ms in zip(
            ("dense model", "this run"),
            report.before_and_after,
            report.cost,
            report.files,
            measured_medians(report.comparison),
            strict=True,
        )
    )
    return compressed, dense


def measured_medians(pair: AnyComparison | None) -> tuple[float | None, float | None]:
    """Median wall times of both models, if they were measured and not emulated."""
    if not isinstance(pair, TimedPair) or pair.device.provenance != "measured":
        return None, None
    return pair.baseline_latency.statistics.wall.p50, pair.candidate_latency.statistics.wall.p50


def of_the_chosen_place(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """Only those plans may be drawn against one axis of latency."""
    place = chosen_place(rows)
    return [row for row in rows if row.plan.place == place]


def chosen_place(rows: Sequence[PlanRow]) -> str:
    """Where the chosen plan was timed."""
    return next(row.plan.place for row in rows if row.mark == "chosen")


def plans_table(rows: Sequence[PlanRow], metric: TaskMetric) -> Table:
    """Every plan with what it came to; where a plan was timed, if elsewhere than the chosen one."""
    place = chosen_place(rows)
    columns: dict[str, Callable[[TriedPlan], str]] = {
        metric.title: lambda plan: _score(plan.accuracy, metric),
        "MACs": lambda plan: COUNT.text(plan.macs),
        "File": lambda plan: BYTES.text(plan.size_bytes),
        "Wall time, p50": lambda plan: TIME.text(plan.wall_ms),
        "Made in": lambda plan: _seconds(plan.seconds),
        "Timed elsewhere": lambda plan: "" if plan.wall_ms is None or plan.place == place else plan.place,
    }
    if not (timed := any(row.plan.wall_ms is not None for row in rows)):
        del columns["Wall time, p50"]
    texts = {"Plan": [row.title for row in rows]}
    texts |= {name: [text(row.plan) for row in rows] for name, text in columns.items()}
    shown = {name: cells for name, cells in texts.items() if any(cells)}
    caption = f"Plans tried, timed on {place}" if timed else "Plans tried"
    numbers = range(1, len(shown) - ("Timed elsewhere" in shown))
    return Table(caption, tuple(shown), tuple(zip(*shown.values(), strict=True)), numbers, "prose")


def _score(value: float | None, metric: TaskMetric) -> str:
    return "not measured" if value is None else score_text(value, metric.unit)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} s"
