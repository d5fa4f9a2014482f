"""View: what the templates of the report show beyond the report itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import InstructionComparison
from edgecompress.profiling.ratios import RESOLUTION
from edgecompress.reporting import charts, latency_tables, layer_tables, provenance_tables, tables
from edgecompress.reporting.bars import WALL_MS, Panel, layer_panels, mix_panel
from edgecompress.reporting.document import Report
from edgecompress.reporting.first_screen import FirstScreen, first_screen
from edgecompress.reporting.front_views import FrontView, front_view
from edgecompress.reporting.numbers import grouped, typeset
from edgecompress.reporting.table import Row, Table, pairs
from edgecompress.reporting.wording import (
    core_of,
    cost_of_speed,
    emulated_times,
    fewer_instructions,
    findings,
    lost_clause,
    verdict_of,
    verified_on_arm,
)
from edgecompress.settings import NO_RECIPE


@dataclass(frozen=True)
class LayersView:
    """What became of layers; ``times`` is what their times are worth, in words."""

    replaced: str
    slower: str
    panels: Sequence[Panel]
    costs: Table
    methods: Table
    left_dense: Table | None
    times: str


@dataclass(frozen=True)
class InstructionsView:
    """Instructions of an emulated core, by class."""

    core: str
    words: str
    panel: Panel
    table: Table


@dataclass(frozen=True)
class SustainedView:
    """Minutes under load."""

    plots: Sequence[charts.Plot]
    sentences: Sequence[str]
    table: Table
    minutes: str


@dataclass(frozen=True)
class LatencyView:
    """Both models taking turns; ``no_claim`` is why their times claim nothing, if so."""

    histograms: charts.Histograms
    table: Table
    threads: Table
    sustained: SustainedView | None
    no_claim: str


@dataclass(frozen=True)
class ProvenanceView:
    """Where everything comes from."""

    artifacts: Table
    notices: Table | None
    bundles: Table | None
    environment: Table | None
    conditions: Table | None
    versions: Table
    data: Table | None
    options: Table


@dataclass(frozen=True)
class View:
    """All that the templates show; None where there is nothing to show.

    ``first`` is what is seen before one scrolls; ``lost`` says that little is left of the outputs, ``price`` what a
    faster model cost; each empty if not.
    """

    first: FirstScreen
    findings: str
    verdict: str
    lost: str
    price: str
    verified: str
    unstable: Sequence[tuple[str, str]]
    groups: Sequence[tuple[str, Sequence[Row]]]
    metric_name: str
    layers: LayersView
    latency: LatencyView | None
    instructions: InstructionsView | None
    plans: Table
    scatters: Sequence[charts.Scatter]
    front: FrontView | None
    stages: Table | None
    fitting: Sequence[str]
    curve: charts.Curve | None
    provenance: ProvenanceView
    resolution: str = f"{100 * RESOLUTION:g} %"


def view_of(report: Report) -> View:
    """What the templates show of a report."""
    pair = report.comparison
    plans, scatters = _plans(report)
    return View(
        first=first_screen(report),
        findings=typeset(findings(report)),
        verdict=verdict_of(pair),
        lost=lost_clause(report.outputs),
        price=typeset(cost_of_speed(report)) if verdict_of(pair).startswith("faster") else "",
        verified=verified_on_arm(pair).capitalize().replace("arm", "ARM"),
        unstable=latency_tables.instabilities(report),
        groups=tables.before_and_after(report),
        metric_name=report.metric.title,
        layers=_layers(report),
        latency=_latency(report, pair) if isinstance(pair, Comparison) else None,
        instructions=_instructions(pair) if isinstance(pair, InstructionComparison) else None,
        plans=plans,
        scatters=scatters,
        front=front_view(report),
        stages=_stages(report),
        fitting=list(_fitting(report)),
        curve=charts.curve(report.training) if report.training else None,
        provenance=_provenance(report),
    )


# -- layers ----------------------------------------------------------------------------------------------------------

TIMED = (
    "Times of layers come from the runtime's own profiler in a run apart, less what it adds to each operator; with "
    "what is outside layers and operators they add up to the latency when taking turns. A layer is called slower only "
    "where the whole file shows it, or where it would be slower if the profiler had added twice as much."
)
TIMED_WITH_PROFILER = (
    "Times of layers come from the runtime's own profiler in a run apart, which adds some microseconds to each "
    "operator: they are not latency, do not add up to it, and are too long for chains of several operators."
)
UNTIMED = "Times of layers are not known: the runtime has no profiler, or nothing was measured."


def _layers(report: Report) -> LayersView:
    layers = layer_tables.layers_of(report)
    panels = layer_panels(layers, layer_tables.outside_layers(report))
    timed = any(panel.key == WALL_MS.key for panel in panels)
    return LayersView(
        replaced=layer_tables.layers_replaced(layers),
        slower=layer_tables.slower_layers(layers),
        panels=panels,
        costs=layer_tables.layer_costs(report),
        methods=layer_tables.layer_methods(layers),
        left_dense=layer_tables.left_dense(layers),
        times=(TIMED if report.file_times else TIMED_WITH_PROFILER) if timed else UNTIMED,
    )


# -- latency ---------------------------------------------------------------------------------------------------------


def _latency(report: Report, pair: Comparison) -> LatencyView:
    return LatencyView(
        histograms=charts.histograms(pair),
        table=latency_tables.latency_table(pair),
        threads=latency_tables.threads_table(pair, report.threads),
        sustained=_sustained(report),
        no_claim="" if pair.device.provenance == "measured" else emulated_times(pair),
    )


def _instructions(pair: InstructionComparison) -> InstructionsView:
    words = typeset(fewer_instructions(pair))
    return InstructionsView(core_of(pair), words, mix_panel(pair), latency_tables.mix_table(pair))


def _sustained(report: Report) -> SustainedView | None:
    sustained = latency_tables.sustained_of(report)
    if not sustained:
        return None
    return SustainedView(
        plots=charts.windows(sustained),
        sentences=latency_tables.sustained_sentences(sustained),
        table=latency_tables.windows_table(sustained),
        minutes=latency_tables.minutes_under_load(sustained),
    )


# -- plans and scores ------------------------------------------------------------------------------------------------


def _plans(report: Report) -> tuple[Table, list[charts.Scatter]]:
    rows, metric, pair = tables.plans(report), report.metric, report.comparison
    timed = tables.of_the_chosen_place(rows) if not pair or pair.device.provenance == "measured" else []
    scale, unit = charts.bytes_scale(row.plan.size_bytes or 0 for row in rows)
    scatters = [
        charts.scatter(rows, lambda plan: plan.size_bytes, f"file size, {unit}", scale, metric),
        charts.scatter(timed, lambda plan: plan.wall_ms, "wall time p50, ms", 1, metric),
    ]
    return tables.plans_table(rows, metric), [one for one in scatters if one]


def _stages(report: Report) -> Table | None:
    metric, test = report.metric, report.test
    scores = provenance_tables.scores_by_stage(report.scores, metric.unit)
    items = f", {test.items:,} test items" if test else ""
    return pairs(f"{metric.title} after each stage{items}", scores, ("Stage", metric.title)) if scores else None


def _fitting(report: Report) -> Iterator[str]:
    """Where the factors come from, and what was done to them since."""
    recipe, fitted = str(report.recipe["name"]), report.calibration
    if recipe not in (NO_RECIPE, "plain"):
        yield f"Ranks and starting weights were found by training: recipe {recipe}."
    elif fitted:
        behind = ", each layer behind the already compressed ones" if fitted.asymmetric else ""
        sentence = "The factors were fitted to what the layers give"
        yield f"{sentence} on {grouped(fitted.items)} training inputs or fewer, without labels{behind}."
        yield RECALIBRATED if fitted.recalibrated else NOT_RECALIBRATED
    else:
        yield "The factors were fitted to the weights alone; batch-norm statistics were not estimated anew."
    if not (report.training and report.training.history):
        yield "The compressed model was not fine-tuned."


RECALIBRATED = (
    "Batch-norm statistics were estimated anew on some of them, which brought the outputs nearer to the dense model's."
)
NOT_RECALIBRATED = (
    "Batch-norm statistics were left as they are: estimating them anew would not have brought the outputs nearer to "
    "the dense model's, or there are none."
)

# -- provenance ------------------------------------------------------------------------------------------------------


def _provenance(report: Report) -> ProvenanceView:
    pair = report.comparison
    return ProvenanceView(
        artifacts=provenance_tables.artifacts_table(report.artifacts),
        notices=provenance_tables.notices_table(report.artifacts),
        bundles=provenance_tables.bundles_table(report.bundles) if report.bundles else None,
        environment=pairs("Where the figures come from", provenance_tables.environment(pair)) if pair else None,
        conditions=provenance_tables.conditions_table(pair) if pair else None,
        versions=pairs("Versions", report.versions.items(), ("Package", "Version")),
        data=provenance_tables.data_table(report.data) if report.data else None,
        options=pairs("Options of the run", report.arguments.items(), ("Option", "Value")),
    )
