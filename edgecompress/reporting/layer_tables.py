"""The report's tables and sentences on layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgecompress.reporting.document import Report
from edgecompress.reporting.entries import LayerCost, LayerEntry
from edgecompress.reporting.numbers import error_text, grouped, significant
from edgecompress.reporting.pairs import ROLES, Known, Pair
from edgecompress.reporting.table import Table
from edgecompress.reporting.wording import interval_text, layer_label

if TYPE_CHECKING:
    from edgecompress.profiling.operators import ComparedLayer

OUTSIDE, OUTSIDE_OPERATORS = "outside any layer", "outside all operators"


def layers_of(report: Report) -> list[LayerEntry]:
    """Layers with the times that may be compared.

    In reports of before the profiler's part was known, a chain's times hold more of it than a dense layer's:
    nothing is called slower by them.
    """
    return [layer if report.file_times else replace(layer, slower=None) for layer in report.layers]


def outside_layers(report: Report) -> dict[str, Known]:
    """Times that are no layer's, by what they are: operators of no layer, and the rest of a run."""
    times = report.file_times
    both = {OUTSIDE: report.outside_layers, OUTSIDE_OPERATORS: times.outside_operators if times else None}
    return {name: one for name, one in both.items() if one and any(value is not None for value in one)}


def method_text(layer: LayerEntry) -> str:
    """Method and ranks, or that the layer stays dense."""
    return f"{layer.method} ({'x'.join(map(str, layer.ranks or ()))})" if layer.method else "left dense"


def layer_methods(layers: Sequence[LayerEntry]) -> Table:
    """Every layer with what became of it."""
    rows = [(layer_label(layer.name), layer.kind, _method_or_reason(layer), _error(layer.error)) for layer in layers]
    head = ("Layer", "Kind", "Method (ranks), or why it stays dense", "Error")
    return Table("Layers: what became of each", head, tuple(rows), range(3, len(head)), "layers")


def _method_or_reason(layer: LayerEntry) -> str:
    text = method_text(layer)
    return f"{text}: {layer.reason}" if not layer.method and layer.reason else text


def _error(error: float | None) -> str:
    return "" if error is None else error_text(error)


def _timed_text(value: float | None) -> str:
    return "not timed" if value is None else significant(value)


Column = tuple[str, Callable[[LayerCost], float | None], Callable[[float | None], str]]
COLUMNS: tuple[Column, ...] = (
    ("MACs", lambda cost: cost.macs, grouped),
    ("Parameters", lambda cost: cost.params, grouped),
    ("Bytes", lambda cost: cost.bytes, grouped),
)
TIME_COLUMN: Column = ("ms", lambda cost: cost.wall_ms, _timed_text)


def layer_costs(report: Report) -> Table:
    """Work, storage and time of every layer, before and after; the time only if it is known of any."""
    timed = any(cost.wall_ms is not None for layer in report.layers for cost in layer.costs)
    columns = (*COLUMNS, TIME_COLUMN) if timed else COLUMNS
    rows = [(layer_label(layer.name), *_cells(layer.costs, columns)) for layer in report.layers]
    outside = outside_layers(report) if timed else {}
    known = {name: times.map(lambda time: LayerCost(None, None, None, time)) for name, times in outside.items()}
    known["Whole model"] = _whole(report)
    rows += [(name, *_cells(costs, columns, blank=True)) for name, costs in known.items()]
    head = ("Layer", *(f"{title}, {role}" for title, _, _ in columns for role in ROLES))
    return Table("Layers: work, storage and time", head, tuple(rows), range(1, len(head)), "layers totals")


def _whole(report: Report) -> Pair[LayerCost]:
    times: Known = report.file_times.whole if report.file_times else Pair(None, None)
    costs = zip(report.cost, times, strict=True)
    return Pair(*(LayerCost(cost.macs, cost.params, cost.weight_bytes, time) for cost, time in costs))


def _cells(costs: Pair[LayerCost], columns: Sequence[Column], *, blank: bool = False) -> list[str]:
    """Texts of both models; what is not known is left ``blank`` or called so."""
    values = [(text, of(cost)) for _, of, text in columns for cost in costs]
    return ["" if blank and value is None else text(value) for text, value in values]


def layers_replaced(layers: Sequence[LayerEntry]) -> str:
    """A sentence on how many layers were replaced."""
    replaced = sum(1 for layer in layers if layer.method)
    return f"{replaced} of {len(layers)} layers were replaced by chains of smaller ones."


def left_dense(layers: Sequence[LayerEntry]) -> Table | None:
    """Reasons, each with the layers it holds for; None if none was left."""
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        if not layer.method:
            reasons.setdefault(layer.reason or "no reason on record", []).append(layer_label(layer.name))
    if not reasons:
        return None
    rows = tuple((reason, ", ".join(names), str(len(names))) for reason, names in reasons.items())
    return Table("Layers left dense, and why", ("Reason", "Layers", "Count"), rows, range(2, 3), "prose")


def slower_layers(layers: Iterable[LayerEntry | ComparedLayer]) -> str:
    """A sentence on the layers that got slower; nothing where no layer was compared."""
    compared = [layer for layer in layers if layer.slower is not None]
    slower = [layer for layer in compared if layer.slower]
    if slower:
        verb = "layer got" if len(slower) == 1 else "layers got"
        names = ", ".join(layer.name or "" for layer in slower)
        return f"{len(slower)} {verb} slower than before: {names}.{_proof(slower)}"
    return "No layer whose time could be compared got slower." if compared else ""


def _proof(slower: Sequence[LayerEntry | ComparedLayer]) -> str:
    """What shows it: with how much the whole file gains by each of these layers being dense."""
    gains = [f"{one.name} {interval_text(one.ablation.inverse)}" for one in slower if one.ablation]
    return f" With it dense in its place, taking turns, the whole file is faster: {', '.join(gains)}." if gains else ""
