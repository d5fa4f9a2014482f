"""The report of a run: report.json, report.html as one page that needs no network and no other file, and report.md."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError, shown
from edgecompress.files import Json, check_version, make_folder, read_json, write_json, write_text
from edgecompress.profiling.ratios import RESOLUTION
from edgecompress.reporting import charts, tables
from edgecompress.reporting.markdown import before_after, escape, table
from edgecompress.reporting.wording import (
    bytes_text,
    change,
    core_of,
    emulated_times,
    fewer_instructions,
    findings,
    grouped,
    is_counted,
    metric_of,
    milliseconds,
    significant,
    typeset,
    verdict_of,
    verified_on_arm,
)

KIND = "edgecompress.report"
VERSION = 2
JSON_NAME = "report.json"
HTML_NAME = "report.html"
MARKDOWN_NAME = "report.md"
TEMPLATES = {HTML_NAME: "report.html.jinja", MARKDOWN_NAME: "report.md.jinja"}


def write_report(document: Json, folder: Path) -> tuple[Path, Path, Path]:
    """Write ``report.html``, ``report.json`` and ``report.md`` into ``folder`` and return their paths in that order.

    Raises:
        FileError: the document is of another kind or version or incomplete, or the folder is not writable.
    """
    page, text = render_html(document), render_markdown(document)
    html, data, markdown = (make_folder(folder) / name for name in (HTML_NAME, JSON_NAME, MARKDOWN_NAME))
    write_json(data, document)
    write_text(html, page)
    write_text(markdown, text)
    return html, data, markdown


def read_report(folder: Path) -> Json:
    """The document that :func:`write_report` left in ``folder``.

    Raises:
        FileError: there is none, or it is of another kind or version.
    """
    path = folder / JSON_NAME
    document = read_json(path)
    try:
        check_version(document, KIND, VERSION)
    except FileError as error:
        raise FileError(f"{path}: {error}") from None
    return document


def render_html(document: Json) -> str:
    """The page as text; everything that came from outside is escaped.

    Raises:
        FileError: the document is of another kind or version, or a field is missing or malformed.
    """
    return _rendered(document, HTML_NAME, autoescape=True)


def render_markdown(document: Json) -> str:
    """The same facts as GitHub-flavoured Markdown; everything that came from outside is escaped.

    Raises:
        FileError: the document is of another kind or version, or a field is missing or malformed.
    """
    return _rendered(document, MARKDOWN_NAME, finalize=escape)


def _rendered(document: Json, name: str, **settings: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

    check_version(document, KIND, VERSION)
    loader = FileSystemLoader(Path(__file__).resolve().parent / "templates")
    environment = Environment(  # noqa: S701 - the page escapes HTML, Markdown escapes by ``finalize``
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **settings
    )
    environment.filters |= FILTERS
    try:
        document = _harmless(document)
        return environment.get_template(TEMPLATES[name]).render(document | _view(document))
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        UndefinedError,
    ) as error:
        raise FileError(f"report: field missing or malformed: {error}") from error


def _harmless(value: Any) -> Any:
    """The same document without what would steer a terminal that shows the report."""
    if isinstance(value, dict):
        return {_harmless(key): _harmless(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_harmless(inner) for inner in value]
    return shown(value) if isinstance(value, str) else value


FILTERS: dict[str, Callable[..., str]] = {
    "bytes": bytes_text,
    "change": change,
    "grouped": grouped,
    "ms": milliseconds,
    "significant": significant,
}


def _view(document: Json) -> Json:
    """What the templates need beyond the document."""
    comparison, metric = document["comparison"], metric_of(document)
    return {
        "findings": typeset(findings(document)),
        "verdict": verdict_of(comparison),
        "verified": verified_on_arm(comparison).capitalize().replace("arm", "ARM"),
        "unstable": tables.instabilities(document),
        "groups": tables.before_and_after(document),
        "metric_name": metric["name"].capitalize(),
        "fitting": list(_fitting(document)),
        "curve": charts.curve(document["training"]) if document["training"] else None,
        "resolution": f"{100 * RESOLUTION:g} %",
        "table": table,
        "before_after": before_after,
        **_layers_view(document),
        **_latency_view(document, comparison),
        **_plans_view(document),
        **_provenance_view(document, comparison),
    }


def _layers_view(document: Json) -> Json:
    layers = tables.layers_of(document)
    panels = charts.layer_panels(layers, tables.outside_layers(document))
    timed = any(panel.key == "wall_ms" for panel in panels)
    return {
        "replaced": tables.layers_replaced(layers),
        "slower": tables.slower_layers(layers),
        "layer_panels": panels,
        "layer_costs": tables.layer_costs(document),
        "layer_methods": tables.layer_methods(layers),
        "left_dense": tables.left_dense(layers),
        "layer_times": (TIMED if document.get("file_times") else TIMED_WITH_PROFILER) if timed else UNTIMED,
    }


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


def _latency_view(document: Json, comparison: Json | None) -> Json:
    found: Json = dict.fromkeys(
        ("latency", "instructions", "latency_table", "threads_table", "sustained", "no_claim"), None
    )
    if comparison is None:
        return found
    if is_counted(comparison):
        return {**found, "instructions": _instructions_view(comparison)}
    return {
        **found,
        "latency": charts.histograms(tables.latencies(comparison)),
        "latency_table": tables.latency_table(comparison),
        "threads_table": tables.threads_table(comparison, document.get("threads") or ()),
        "sustained": _sustained_view(document),
        "no_claim": "" if comparison["provenance"] == "measured" else emulated_times(comparison),
    }


def _instructions_view(comparison: Json) -> Json:
    before, after = comparison["baseline_counts"], comparison["candidate_counts"]
    return {
        "core": core_of(comparison),
        "words": typeset(fewer_instructions(comparison)),
        "panel": charts.mix_panel(before, after),
        "table": tables.mix_table(comparison),
    }


def _sustained_view(document: Json) -> Json | None:
    sustained = tables.sustained_of(document)
    if not sustained:
        return None
    return {
        "plots": charts.windows(sustained),
        "sentences": tables.sustained_sentences(sustained),
        "table": tables.windows_table(sustained),
        "minutes": tables.minutes_under_load(sustained),
    }


def _plans_view(document: Json) -> Json:
    found, metric, comparison = tables.plans(document), metric_of(document), document["comparison"]
    timed = tables.of_the_chosen_place(found) if not comparison or comparison["provenance"] == "measured" else []
    scale, unit = charts.bytes_scale(plan["size_bytes"] or 0 for plan in found)
    scatters = [
        charts.scatter(found, "size_bytes", f"file size, {unit}", scale, metric),
        charts.scatter(timed, "wall_ms", "wall time p50, ms", 1, metric),
    ]
    return {"plans_table": tables.plans_table(found, metric), "scatters": [one for one in scatters if one]}


def _provenance_view(document: Json, comparison: Json | None) -> Json:
    metric, data = metric_of(document), document["data"]
    stages = tables.stages(document["accuracy"], metric["unit"])
    caption = f"{metric['name'].capitalize()} after each stage"
    items = f", {data['test']['items']:,} test items" if data and data.get("test") else ""
    where = tables.pairs("Where the figures come from", tables.environment(comparison)) if comparison else None
    return {
        "stages": stages,
        "stages_table": tables.pairs(caption + items, stages, ("Stage", metric["name"].capitalize())),
        "artifacts_table": tables.artifacts_table(document["artifacts"]),
        "environment_table": where,
        "conditions_table": tables.conditions_table(comparison) if comparison else None,
        "versions_table": tables.pairs("Versions", document["versions"].items(), ("Package", "Version")),
        "data_table": tables.data_table(data) if data else None,
        "options_table": tables.pairs("Options of the run", document["arguments"].items(), ("Option", "Value")),
    }


def _fitting(document: Json) -> Iterator[str]:
    """Where the factors come from, and what was done to them since."""
    recipe, calibration = document.get("recipe") or {"name": "none"}, document["calibration"]
    if recipe["name"] not in ("none", "plain"):
        yield f"Ranks and starting weights were found by training: recipe {recipe['name']}."
    elif calibration:
        behind = ", each layer behind the already compressed ones" if calibration["asymmetric"] else ""
        items = grouped(calibration["items"])
        fitted = "The factors were fitted to what the layers give"
        yield f"{fitted} on {items} training inputs or fewer, without labels{behind}."
        yield RECALIBRATED if calibration["recalibrated"] else NOT_RECALIBRATED
    else:
        yield "The factors were fitted to the weights alone; batch-norm statistics were not estimated anew."
    if not (document["training"] and document["training"]["history"]):
        yield "The compressed model was not fine-tuned."


RECALIBRATED = (
    "Batch-norm statistics were estimated anew on some of them, which brought the outputs nearer to the dense model's."
)
NOT_RECALIBRATED = (
    "Batch-norm statistics were left as they are: estimating them anew would not have brought the outputs nearer to "
    "the dense model's, or there are none."
)
