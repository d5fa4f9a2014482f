"""The report's bars: a pair for each layer or class of instructions, with widths in percent; no colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgecompress.profiling.instruction_counts import InstructionComparison
from edgecompress.reporting.entries import LayerCost, LayerEntry
from edgecompress.reporting.latency_tables import mix_of
from edgecompress.reporting.layer_tables import method_text
from edgecompress.reporting.numbers import BYTES, COUNT, TIME, Unit, change, error_text
from edgecompress.reporting.pairs import ROLES, Known, Pair
from edgecompress.reporting.wording import layer_label


@dataclass(frozen=True, slots=True)
class Bar:
    """A named pair of bars with widths in percent (None: nothing to draw), a label and what changed, in words."""

    name: str
    label: str
    note: str
    widths: Known
    values: str
    quiet: bool = False
    alarming: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars of one quantity; ``full`` is what the whole width stands for."""

    key: str
    title: str
    full: str
    bars: tuple[Bar, ...]
    roles: tuple[str, ...] = ROLES


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a panel of layers shows; ``key`` names its panel in the page."""

    key: str
    title: str
    unit: Unit
    of: Callable[[LayerCost], float | None]


WALL_MS = Quantity("wall_ms", "Time in the runtime", TIME, lambda cost: cost.wall_ms)
QUANTITIES = (
    Quantity("macs", "MACs of one input", COUNT, lambda cost: cost.macs),
    WALL_MS,
    Quantity("bytes", "Bytes of weights", BYTES, lambda cost: cost.bytes),
)


def layer_panels(layers: Sequence[LayerEntry], outside: Mapping[str, Known]) -> list[Panel]:
    """A panel for every quantity that is known of any layer, and one for the error.

    ``outside`` are times that are no layer's, by what they are.
    """
    costs = [cost for layer in layers for cost in layer.costs]
    known = [quantity for quantity in QUANTITIES if any(quantity.of(cost) is not None for cost in costs)]
    panels = [_layer_panel(layers, outside if quantity is WALL_MS else {}, quantity) for quantity in known]
    return [*panels, _error_panel(layers)] if any(layer.error is not None for layer in layers) else panels


def _layer_panel(layers: Sequence[LayerEntry], rest: Mapping[str, Known], quantity: Quantity) -> Panel:
    unit = quantity.unit
    pairs = [layer.costs.map(quantity.of) for layer in layers]
    full = max(value or 0 for pair in (*pairs, *rest.values()) for value in pair)
    bars = [_layer_bar(layer, pair, full, quantity) for layer, pair in zip(layers, pairs, strict=True)]
    bars += [Bar(name, "", "", _widths(pair, full), _values(pair, unit), quiet=True) for name, pair in rest.items()]
    return Panel(quantity.key, quantity.title, unit.show(full), tuple(bars))


def _layer_bar(layer: LayerEntry, pair: Known, full: float, quantity: Quantity) -> Bar:
    slower = quantity is WALL_MS and layer.slower is True
    note = change(*pair) if layer.method else ""
    note = f"▲ slower, {note}" if slower else note
    left, values = not layer.method, _values(pair, quantity.unit)
    return Bar(layer_label(layer.name), method_text(layer), note, _widths(pair, full), values, left, slower)


def _widths(pair: Known, full: float) -> Known:
    return pair.map(lambda value: None if value is None else round(100 * value / (full or 1), 2))


def _values(pair: Known, unit: Unit) -> str:
    return " → ".join("not known" if value is None else unit.show(value) for value in pair)


def _error_panel(layers: Sequence[LayerEntry]) -> Panel:
    full = max(layer.error or 0 for layer in layers)
    bars = [
        Bar(
            layer_label(layer.name),
            method_text(layer),
            "" if layer.error is None else error_text(layer.error),
            _widths(Pair(None, layer.error), full),
            "",
            quiet=layer.error is None,
        )
        for layer in layers
    ]
    return Panel("error", "Relative squared error", error_text(full), tuple(bars), ("compressed",))


def mix_panel(pair: InstructionComparison) -> Panel:
    """Instructions of one inference by class, before and after; classes without any are left out."""
    mix: dict[str, Known] = {name: Pair(*both) for name, both in mix_of(pair).items() if any(both)}
    full = max((count or 0 for both in mix.values() for count in both), default=0)
    bars = [
        Bar(name, _values(both, COUNT), change(*both), _widths(both, full), _values(both, COUNT))
        for name, both in mix.items()
    ]
    return Panel("mix", "Instructions of one inference", COUNT.show(full), tuple(bars))
