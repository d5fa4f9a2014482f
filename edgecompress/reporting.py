"""The report of a run: report.json, and report.html as one page that needs no network and no other file."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, make_folder, read_json, write_json, write_text
from edgecompress.profiles import quantile

KIND = "edgecompress.report"
VERSION = 1
JSON_NAME = "report.json"
HTML_NAME = "report.html"
TEMPLATE = "report.html.jinja"

ROLES = ("dense", "compressed")
RUNTIME_TITLES = {"onnxruntime": "ONNX Runtime"}
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


def summary_sentence(document: Json) -> str:
    """What the run achieved and what it cost, in one sentence that hides no loss."""
    return f"{document['model']}: {_findings(document)}"


def _findings(document: Json) -> str:
    before, after = (document["cost"][role] for role in ROLES)
    clauses = (
        _fewer(before["macs"], after["macs"], "MACs"),
        _fewer(before["params"], after["params"], "parameters"),
        _accuracy_clause(document["accuracy"]),
        _latency_clause(document["comparison"]),
    )
    return ", ".join(clauses) + "."


def _fewer(before: int, after: int, what: str) -> str:
    if before == after:
        return f"as many {what} as before"
    percent = abs(after / before - 1) * 100
    return f"{percent:.1f} % {'fewer' if after < before else 'more'} {what}"


def _accuracy_clause(accuracy: Json | None) -> str:
    before, after = _accuracies(accuracy)
    if before is None or after is None:
        return "accuracy not measured"
    return f"accuracy {before:.2f} % -> {after:.2f} % ({after - before:+.2f} points)"


def _accuracies(accuracy: Json | None) -> tuple[float | None, float | None]:
    """Of the dense model and of the last stage that was scored, the exported file if possible."""
    known = accuracy or {}
    scored = (known.get(stage) for stage in ("artifact", "finetuned", "decomposed"))
    return known.get("dense"), next((score for score in scored if score is not None), None)


def _latency_clause(comparison: Json | None) -> str:
    if comparison is None:
        return "latency not measured"
    how, place = comparison["provenance"], _place(comparison)
    if comparison["verdict"] == "no claim":
        kind = "latency" if how == "measured" else f"{how} latency"
        wall, cpu = (_interval_text(*_ratio(comparison, clock)) for clock in ("wall", "cpu"))
        return f"no measurable difference in {kind}: speed-up of wall time {wall}, of CPU time {cpu}, {place}"
    value, low, high = _ratio(comparison, "wall")
    if comparison["verdict"] == "slower":
        value, low, high = 1 / value, 1 / high, 1 / low
    return f"{how} {_interval_text(value, low, high, comparison['verdict'])} {place}"


def _ratio(comparison: Json, clock: str) -> tuple[float, float, float]:
    """Baseline over candidate time and the ends of its interval."""
    prefix = "" if clock == "wall" else f"{clock}_"
    low, high = comparison[f"{prefix}ci95"]
    return comparison[f"{prefix}speedup"], low, high


def _interval_text(value: float, low: float, high: float, verdict: str = "") -> str:
    """A ratio and its interval, with a third decimal where two would not tell it from 1."""
    decimals = 3 if min(abs(mark - 1) for mark in (value, low, high)) < 0.02 else 2
    words = f" {verdict}" if verdict else ""
    return f"{value:.{decimals}f}x{words} (95 % interval {low:.{decimals}f} to {high:.{decimals}f})"


def _place(comparison: Json) -> str:
    device, threads, batch = comparison["device"], comparison["threads"], comparison["batch"]
    processor = device["processor"] or device["machine"] or "an unnamed processor"
    where = processor if device["name"] == "local" else f"{device['name']} ({processor})"
    parts = [f"on {where}", "1 thread" if threads == 1 else f"{threads} threads"]
    parts += [f"batch {batch}"] if batch != 1 else []
    return ", ".join([*parts, _runtime_text(comparison["runtime"])])


def _runtime_text(runtime: Mapping[str, str]) -> str:
    name = runtime.get("name", "unnamed runtime")
    return f"{RUNTIME_TITLES.get(name, name)} {runtime.get('version', '')}".strip()


def _significant(value: float, digits: int = 4) -> str:
    """Decimal notation with about ``digits`` significant digits."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"


def _scaled(value: float, prefixes: Sequence[str]) -> str:
    """A number with a decimal prefix: 40.55 M."""
    step = min(len(prefixes) - 1, int(math.log10(abs(value)) // 3)) if abs(value) >= 1000 else 0
    number = _significant(value / 1000**step) if step else f"{value:g}"
    return f"{number} {prefixes[step]}".strip()


def _count_text(value: float) -> str:
    return _scaled(value, ("", "k", "M", "G", "T"))


def _bytes_text(value: float) -> str:
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def _grouped(value: float) -> str:
    return f"{value:,}"


def _milliseconds(value: float) -> str:
    return f"{_significant(value)} ms"


def _change(before: float | None, after: float | None) -> str:
    """The relative change in percent, as words where there is none."""
    if before is None or after is None or before == 0:
        return ""
    percent = (after / before - 1) * 100
    if percent == 0:
        return "no change"
    return _minus(f"{percent:+.1f} %" if abs(percent) >= 0.05 else f"{percent:+.1g} %")


def _minus(text: str) -> str:
    """The sign, where a hyphen stands for it at the start."""
    return "−" + text[1:] if text.startswith("-") else text


def _typeset(findings: str) -> str:
    """Arrows and minus signs in place of their ASCII forms."""
    return findings.replace(" -> ", " → ").replace("(-", "(−")


def _scientific(value: float) -> str:
    return _minus(f"{value:.2g}")


def _plain(value: object) -> str:
    """An option's value in words."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)


FILTERS: dict[str, Callable[..., str]] = {
    "bytes": _bytes_text,
    "change": _change,
    "count": _count_text,
    "grouped": _grouped,
    "ms": _milliseconds,
    "plain": _plain,
    "scientific": _scientific,
    "significant": _significant,
}


@dataclass(frozen=True, slots=True)
class Unit:
    """How a quantity is shown, and in full where that is longer."""

    show: Callable[[float], str]
    exact: Callable[[float], str] = lambda _: ""


COUNT = Unit(_count_text, _grouped)
BYTES = Unit(_bytes_text, lambda size: f"{size:,} bytes")
TIME = Unit(_milliseconds)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the before/after table: texts, and the exact values behind them or empty strings."""

    label: str
    dense: str
    compressed: str
    change: str
    dense_exact: str = ""
    compressed_exact: str = ""


def _row(label: str, before: float | None, after: float | None, unit: Unit) -> Row:
    shown, exact = zip(*((_shown(value, unit), _exact(value, unit)) for value in (before, after)), strict=True)
    return Row(label, *shown, _change(before, after), *exact)


def _shown(value: float | None, unit: Unit) -> str:
    return "not measured" if value is None else unit.show(value)


def _exact(value: float | None, unit: Unit) -> str:
    return "" if value is None else unit.exact(value)


def _view(document: Json) -> Json:
    """What the template needs beyond the document."""
    comparison = document["comparison"]
    return {
        "findings": _typeset(_findings(document)),
        "verdict": comparison["verdict"] if comparison else "not measured",
        "groups": _groups(document),
        "layer_bars": _layer_bars(document["layers"]),
        "largest_macs": _largest_macs(document["layers"]),
        "latency": _latency_view(comparison) if comparison else None,
        "stages": _stages(document["accuracy"]),
        "curve": _curve(document["training"]) if document["training"] else None,
        "environment": _environment(comparison) if comparison else [],
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
    label = f"Accuracy on {test['items']:,} test items" if test else "Accuracy"
    before, after = _accuracies(document["accuracy"])
    shown = ("not measured" if value is None else f"{value:.2f} %" for value in (before, after))
    change = "" if before is None or after is None else _minus(f"{after - before:+.2f} points")
    return Row(label, *shown, change)


def _model_rows(cost: Json) -> Iterator[Row]:
    labels = {"params": "Parameters", "macs": "MACs of one input", "flops": "FLOPs of one input (2 × MACs)"}
    for key, label in labels.items():
        yield _row(label, *(cost[role][key] for role in ROLES), COUNT)
    yield _row("Weights (parameters and buffers)", *(cost[role]["weight_bytes"] for role in ROLES), BYTES)


def _file_rows(document: Json) -> Iterator[Row]:
    files = [_artifact(document, role) for role in ROLES]
    profiles = [(document["profiles"] or {}).get(role) or {} for role in ROLES]
    yield _row("File size", *(file.get("size_bytes") for file in files), BYTES)
    yield _row("Zipped size (DEFLATE)", *(file.get("zipped_bytes") for file in files), BYTES)
    yield _row("Weights within the file", *(profile.get("weight_bytes") for profile in profiles), BYTES)


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
        yield _row(f"Wall time, {mark}", before["wall"][mark], after["wall"][mark], TIME)
    yield _row("CPU time, p50", before["cpu"]["p50"], after["cpu"]["p50"], TIME)
    for clock, name in (("wall", "wall"), ("cpu", "CPU")):
        value, low, high = _ratio(comparison, clock)
        yield Row(f"Speed-up, {name} time", "1×", f"{value:.3f}×", f"95 %: {low:.3f} to {high:.3f}")


def _latencies(comparison: Json) -> tuple[Json, Json]:
    return comparison["baseline_latency"], comparison["candidate_latency"]


def _process_rows(profiles: Json) -> Iterator[Row]:
    pair = [profiles.get(role) or {} for role in ROLES]
    alone = [profile.get("latency", {}).get("wall", {}).get("p50") for profile in pair]
    yield _row("Load time", *(profile.get("load_ms") for profile in pair), TIME)
    yield _row("First run", *(profile.get("first_run_ms") for profile in pair), TIME)
    yield _row("Wall time, p50", *alone, TIME)
    yield _row("Peak memory (RSS)", *(profile.get("peak_rss_bytes") for profile in pair), BYTES)
    yield _row("… of which before loading", *(profile.get("runtime_rss_bytes") for profile in pair), BYTES)


def _largest_macs(layers: Sequence[Json]) -> int:
    return max((max(layer[role]["macs"] for role in ROLES) for layer in layers), default=0)


def _layer_bars(layers: Sequence[Json]) -> list[Json]:
    """Every layer with its label and the widths of its bars in percent of the largest."""
    full = _largest_macs(layers) or 1
    return [
        {**layer, "label": _method_text(layer)}
        | {f"{role}_width": round(100 * layer[role]["macs"] / full, 2) for role in ROLES}
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
        "ticks": [(_position(tick, low, high), _tick_text(tick)) for tick in _ticks(low, high)],
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
    edges = [(f"{low + i * width:.4g}", f"{low + (i + 1) * width:.4g}") for i in range(BINS)]
    return [(*edge, *pair) for edge, pair in zip(edges, zip(*counts, strict=True), strict=True) if any(pair)]


def _position(value: float, low: float, high: float) -> float:
    return round(100 * (min(value, high) - low) / (high - low), 2)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers between ``low`` and ``high``."""
    power = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step for step in (5 * power, 2 * power, power) if (high - low) / step >= 4)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [index * step for index in range(first, last + 1)]


def _tick_text(tick: float) -> str:
    return f"{tick:.6g}"


def _stages(accuracy: Json | None) -> list[tuple[str, float]]:
    """The accuracies that are known, in the order of the stages."""
    titles = {
        "dense": "Dense model",
        "decomposed": "After decomposition",
        "finetuned": "After fine-tuning",
        "artifact": "Exported file",
    }
    known = accuracy or {}
    return [(title, known[stage]) for stage, title in titles.items() if known.get(stage) is not None]


def _curve(training: Json) -> Json | None:
    """Points of the validation score, in percent across and pixels down; None without an epoch."""
    history: list[Json] = training["history"]
    if not history:
        return None
    scores = [epoch["score"] for epoch in history]
    low, high = min(scores), max(scores)
    across = [round(6 + 88 * (i / (len(scores) - 1) if len(scores) > 1 else 0.5), 2) for i in range(len(scores))]
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
        ("Runtime", _runtime_text(comparison["runtime"])),
        *((key.capitalize(), value) for key, value in comparison["runtime"].items() if key not in ("name", "version")),
        ("Python on the device", device["python"]),
        ("Threads", str(comparison["threads"])),
        ("Batch", str(comparison["batch"])),
        ("Blocks of each model", str(comparison["blocks"])),
        ("Runs (dense and compressed)", runs),
    ]
