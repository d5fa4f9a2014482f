"""The report of a run: report.json, and report.html as one page that needs no network and no other file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, make_folder, read_json, write_json, write_text
from edgecompress.profiles import RESOLUTION, quantile
from edgecompress.wording import (
    ROLES,
    accuracies,
    bytes_text,
    change,
    count_text,
    findings,
    grouped,
    metric_of,
    milliseconds,
    minus,
    plain,
    ratio_of,
    runtime_text,
    scientific,
    score_change,
    score_text,
    significant,
    typeset,
)

KIND = "edgecompress.report"
VERSION = 1
JSON_NAME = "report.json"
HTML_NAME = "report.html"
TEMPLATE = "report.html.jinja"

BINS = 80
CLIPPED_ABOVE = 0.995
PANEL_HEIGHT = 88
CURVE_TOP, CURVE_HEIGHT = 22, 120
MOST_MARKED_EPOCHS = 40


def write_report(document: Json, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json`` into ``folder`` and return their paths in that order.

    Raises:
        FileError: the document is of another kind or version or incomplete, or the folder is not writable.
    """
    page = render_html(document)
    html, data = make_folder(folder) / HTML_NAME, folder / JSON_NAME
    write_json(data, document)
    write_text(html, page)
    return html, data


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
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

    check_version(document, KIND, VERSION)
    loader = FileSystemLoader(Path(__file__).resolve().parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= FILTERS
    try:
        return environment.get_template(TEMPLATE).render(document | _view(document))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, UndefinedError) as error:
        raise FileError(f"report: field missing or malformed: {error}") from error


FILTERS: dict[str, Callable[..., str]] = {
    "bytes": bytes_text,
    "change": change,
    "count": count_text,
    "grouped": grouped,
    "ms": milliseconds,
    "plain": plain,
    "scientific": scientific,
    "significant": significant,
}


@dataclass(frozen=True, slots=True)
class Unit:
    """How a quantity is shown, and in full where that is longer."""

    show: Callable[[float], str]
    exact: Callable[[float], str] = lambda _: ""


COUNT = Unit(count_text, grouped)
BYTES = Unit(bytes_text, lambda size: f"{size:,} bytes")
TIME = Unit(milliseconds)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the before/after table: texts, and the exact values behind them or empty strings."""

    label: str
    dense: str
    compressed: str
    change: str
    dense_exact: str = ""
    compressed_exact: str = ""


def _row(label: str, values: Sequence[float | None], unit: Unit) -> Row:
    """A row from the dense and the compressed model's value."""
    before, after = values
    shown, exact = ([write(value, unit) for value in values] for write in (_shown, _exact))
    return Row(label, shown[0], shown[1], change(before, after), exact[0], exact[1])


def _shown(value: float | None, unit: Unit) -> str:
    return "not measured" if value is None else unit.show(value)


def _exact(value: float | None, unit: Unit) -> str:
    return "" if value is None else unit.exact(value)


def _view(document: Json) -> Json:
    """What the template needs beyond the document."""
    comparison = document["comparison"]
    return {
        "findings": typeset(findings(document)),
        "verdict": comparison["verdict"] if comparison else "not measured",
        "groups": _groups(document),
        "layer_bars": _layer_bars(document["layers"]),
        "largest_macs": _largest_macs(document["layers"]),
        "latency": _latency_view(comparison) if comparison else None,
        "metric_name": metric_of(document)["name"].capitalize(),
        "stages": _stages(document["accuracy"], metric_of(document)["unit"]),
        "curve": _curve(document["training"]) if document["training"] else None,
        "environment": _environment(comparison) if comparison else [],
        "resolution": f"{100 * RESOLUTION:g} %",
        "panel_height": PANEL_HEIGHT,
        "curve_height": CURVE_HEIGHT + 2 * CURVE_TOP,
    }


def _groups(document: Json) -> list[tuple[str, list[Row]]]:
    """The before/after table, in groups of rows."""
    return [
        ("Task", [_accuracy_row(document)]),
        ("Model", list(_model_rows(document["cost"]))),
        ("Exported file", list(_file_rows(document))),
        ("Latency, taking turns in one process", list(_latency_rows(document["comparison"]))),
        ("Each model alone in a process of its own", list(_process_rows(document["profiles"] or {}))),
    ]


def _accuracy_row(document: Json) -> Row:
    test = (document["data"] or {}).get("test")
    metric = metric_of(document)
    name, unit = metric["name"].capitalize(), Unit(lambda score: score_text(score, metric["unit"]))
    label = f"{name} on {test['items']:,} test items" if test else name
    before, after = accuracies(document["accuracy"])
    if before is None or after is None:
        return Row(label, _shown(before, unit), _shown(after, unit), "")
    return Row(label, _shown(before, unit), _shown(after, unit), minus(score_change(before, after, metric["unit"])))


def _model_rows(cost: Json) -> Iterator[Row]:
    labels = {"params": "Parameters", "macs": "MACs of one input", "flops": "FLOPs of one input (2 × MACs)"}
    for key, label in labels.items():
        yield _row(label, _of_roles(cost, key), COUNT)
    yield _row("Weights (parameters and buffers)", _of_roles(cost, "weight_bytes"), BYTES)


def _file_rows(document: Json) -> Iterator[Row]:
    files = {role: _artifact(document, role) for role in ROLES}
    yield _row("File size", _of_roles(files, "size_bytes"), BYTES)
    yield _row("Zipped size (DEFLATE)", _of_roles(files, "zipped_bytes"), BYTES)
    yield _row("Weights within the file", _of_roles(document["profiles"], "weight_bytes"), BYTES)


def _of_roles(parts: Mapping[str, Json] | None, key: str) -> list[float | None]:
    """One value for each role; None where it is not known."""
    return [((parts or {}).get(role) or {}).get(key) for role in ROLES]


def _artifact(document: Json, role: str) -> Json:
    """The first artifact of that role, or nothing."""
    found: Json = next((artifact for artifact in document["artifacts"] if artifact["role"] == role), {})
    return found


def _latency_rows(comparison: Json | None) -> Iterator[Row]:
    if comparison is None:
        yield Row("Latency", "not measured", "not measured", "")
        return
    before, after = _latencies(comparison)
    for mark in ("p50", "p90", "p99", "min"):
        yield _row(f"Wall time, {mark}", (before["wall"][mark], after["wall"][mark]), TIME)
    yield _row("CPU time, p50", (before["cpu"]["p50"], after["cpu"]["p50"]), TIME)
    for clock, name in (("wall", "wall"), ("cpu", "CPU")):
        value, low, high = ratio_of(comparison, clock)
        yield Row(
            f"Speed-up, {name} time (95 % interval)", "1×", f"{value:.3f}×", f"{low:.3f} to\N{NO-BREAK SPACE}{high:.3f}"
        )


def _latencies(comparison: Json) -> tuple[Json, Json]:
    return comparison["baseline_latency"], comparison["candidate_latency"]


def _process_rows(profiles: Json) -> Iterator[Row]:
    alone = {role: profile["latency"]["wall"] for role, profile in profiles.items()}
    yield _row("Load time", _of_roles(profiles, "load_ms"), TIME)
    yield _row("First run", _of_roles(profiles, "first_run_ms"), TIME)
    yield _row("Wall time, p50", _of_roles(alone, "p50"), TIME)
    yield _row("Peak memory (RSS)", _of_roles(profiles, "peak_rss_bytes"), BYTES)
    yield _row("… of which before loading", _of_roles(profiles, "runtime_rss_bytes"), BYTES)


def _largest_macs(layers: Sequence[Json]) -> int:
    return max((layer[role]["macs"] or 0 for layer in layers for role in ROLES), default=0)


def _layer_bars(layers: Sequence[Json]) -> list[Json]:
    """Every layer with its label and the widths of its bars in percent of the largest."""
    full = _largest_macs(layers) or 1
    return [
        {**layer, "label": _method_text(layer)}
        | {f"{role}_width": round(100 * (layer[role]["macs"] or 0) / full, 2) for role in ROLES}
        for layer in layers
    ]


def _method_text(layer: Json) -> str:
    return f"{layer['method']} ({', '.join(map(str, layer['ranks'] or ()))})" if layer["method"] else "left dense"


def _latency_view(comparison: Json) -> Json:
    """Histograms of both models on one axis that ends at the larger 99.5th percentile."""
    runs = [_flat(latency["wall_ms"]) for latency in _latencies(comparison)]
    low = min(map(min, runs))
    high = max(quantile(times, CLIPPED_ABOVE) for times in runs)
    high = high if high > low else low * 1.1 or 1.0
    counts = [_histogram(times, low, high) for times in runs]
    tallest = max(count / len(times) for per_bin, times in zip(counts, runs, strict=True) for count in per_bin)
    latencies = zip(ROLES, _latencies(comparison), runs, counts, strict=True)
    return {
        "panels": [_panel(*one, low, high, tallest) for one in latencies],
        "bins": _bin_rows(counts, low, high),
        "ticks": _ticks(low, high),
        "high": high,
        "tallest": f"{100 * tallest:.1f} %",
    }


def _flat(blocks: Sequence[Sequence[float]]) -> list[float]:
    return [run for block in blocks for run in block]


def _histogram(times: Sequence[float], low: float, high: float) -> list[int]:
    """How many runs fall into each of ``BINS`` equal bins; those above ``high`` are left out."""
    width = (high - low) / BINS
    found = Counter(min(int((time - low) / width), BINS - 1) for time in times if time <= high)
    return [found[index] for index in range(BINS)]


def _panel(
    role: str, latency: Json, times: Sequence[float], counts: Sequence[int], low: float, high: float, tallest: float
) -> Json:
    unit = PANEL_HEIGHT / (tallest * len(times))
    bars = [(round(100 * i / BINS, 2), round(count * unit, 1)) for i, count in enumerate(counts) if count]
    marks = {mark: _position(latency["wall"][mark], low, high) for mark in ("p50", "p90", "p99")}
    beyond = sum(time > high for time in times)
    return {"role": role, "latency": latency, "bars": bars, "marks": marks, "beyond": beyond, "largest": max(times)}


def _bin_rows(counts: Sequence[Sequence[int]], low: float, high: float) -> list[tuple[str, str, int, int]]:
    """From, to, and both counts, of every bin that is not empty in both."""
    width = (high - low) / BINS
    decimals = max(0, 2 - math.floor(math.log10(width)))
    edges = [f"{low + index * width:.{decimals}f}" for index in range(BINS + 1)]
    rows = zip(edges, edges[1:], *counts, strict=False)
    return [row for row in rows if row[2] or row[3]]


def _position(value: float, low: float, high: float) -> float:
    return round(100 * (min(value, high) - low) / (high - low), 2)


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Four to twelve round numbers between ``low`` and ``high``: where they stand, and their text."""
    exponent = math.floor(math.log10((high - low) / 4))
    step = next(step for step in (factor * 10.0**exponent for factor in (5, 2, 1)) if (high - low) / step >= 4)
    marks = [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(_position(mark, low, high), f"{mark:.{max(0, -exponent)}f}") for mark in marks]


def _stages(accuracy: Json | None, unit: str) -> list[tuple[str, str]]:
    """The scores that are known, in the order of the stages."""
    titles = {
        "dense": "Dense model",
        "decomposed": "After decomposition",
        "finetuned": "After fine-tuning",
        "artifact": "Exported file",
    }
    known = accuracy or {}
    scored = ((title, known.get(stage)) for stage, title in titles.items())
    return [(title, score_text(score, unit)) for title, score in scored if score is not None]


def _curve(training: Json) -> Json | None:
    """Points of the validation score, in percent across and pixels down; None without an epoch."""
    history: list[Json] = training["history"]
    if not history:
        return None
    scores = [epoch["score"] for epoch in history]
    low, high = min(scores), max(scores)
    across = [round(8 + 84 * (i / (len(scores) - 1) if len(scores) > 1 else 0.5), 2) for i in range(len(scores))]
    down = [round(CURVE_TOP + CURVE_HEIGHT * (high - score) / ((high - low) or 1), 1) for score in scores]
    points = [{**epoch, "x": x, "y": y} for epoch, x, y in zip(history, across, down, strict=True)]
    best = [point for point in points if point["epoch"] == training["best_epoch"]]
    return {"points": points, "best": best[0] if best else None, "marked": len(points) <= MOST_MARKED_EPOCHS}


def _environment(comparison: Json) -> list[tuple[str, str]]:
    device = comparison["device"]
    runs = " and ".join(f"{latency['runs']:,}" for latency in _latencies(comparison))
    return [
        ("Device", f"{device['name']} ({device['provenance']})"),
        ("Processor", device["processor"] or "not named by the system"),
        ("Architecture", device["machine"]),
        ("Cores", str(device["cores"])),
        ("System", device["system"]),
        ("Runtime", runtime_text(comparison["runtime"])),
        *((key.capitalize(), value) for key, value in comparison["runtime"].items() if key not in ("name", "version")),
        ("Python on the device", device["python"]),
        ("Threads", str(comparison["threads"])),
        ("Batch", str(comparison["batch"])),
        ("Blocks of each model", str(comparison["blocks"])),
        ("Runs (dense and compressed)", runs),
    ]
