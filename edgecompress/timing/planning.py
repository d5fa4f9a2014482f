"""A plan within a latency: times are taken, candidates scored by them too, rivals measured as whole files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgecompress.calibrating import Calibration
from edgecompress.decompositions import AUTO
from edgecompress.devices import Device
from edgecompress.errors import PlanError
from edgecompress.files import Json
from edgecompress.models import Sample
from edgecompress.planning import Survey, assembled, weighed_choices
from edgecompress.plans import CompressionPlan, Cost
from edgecompress.progress import Progress, silent
from edgecompress.selectors import Budget, Selector
from edgecompress.selectors.base import Candidate, LayerCandidates
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.selectors.search import Search
from edgecompress.settings import Scope
from edgecompress.targets import Target
from edgecompress.timing import Bench, Timings, bench_of, timings
from edgecompress.timing.closing import closed
from edgecompress.timing.geometries import Chain
from edgecompress.timing.measured import Measured
from edgecompress.timing.plateaus import known_multiple
from edgecompress.timing.rivals import Rivals
from edgecompress.timing.stopwatches import load_here

BUSY = 1.5
"""Processes that want a processor, for each there is: above, what is measured is called that of a busy machine."""
FAR_OFF = 0.6
"""A budget below so much of what the fastest chains take by the table is refused before any long work."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a plan is made for."""

    target: Target
    device: Device
    threads: int = 1


def timed_plan(
    seen: Survey,
    selector: Selector,
    scope: Scope,
    sample: Sample,
    place: Place,
    *,
    calibration: Calibration | None = None,
    progress: Progress = silent,
) -> CompressionPlan:
    """The plan of least loss that was measured to be within the latency; what was measured is in its ``measured``.

    Args:
        seen: the model's layers.
        selector: a ``Budget`` of latency, or ``Ceilings`` with ``max_latency_ms`` or ``keep`` of latency.
        scope: the layers, methods and ranks that may be chosen.
        sample: the model, for its example and name.
        place: target, device and threads.
        calibration: unlabelled inputs, by which losses are estimated.
        progress: listens.

    Raises:
        BudgetError: no plan is within the latency; with the nearest and what binds.
        DeviceError: the device cannot be used.
        PlanError: milliseconds are requested of a device that counts instructions, or a search of latencies.
    """
    limits = _ceilings(selector)
    with bench_of(sample, seen, place.target, place.device, place.threads) as bench:
        seen = _measurable(seen, bench)
        found = timings(bench, seen, scope, progress=progress)
        keep = _kept(limits, bench)
        limits = replace(limits, dense_ms=bench.dense_ms)
        total = found.prices.total(seen.total)
        first = replace(limits, time=_first_time(found, scope, limits, keep, total))
        layers, _ = weighed_choices(
            replace(seen, total=total), first, scope, calibration=calibration, prices=found.prices, progress=progress
        )
        found = timings(bench, seen, scope, more=scored_chains(layers), progress=progress)
        multiple = found.multiple or known_multiple(place.target.name, place.device.name)
        best, measured = closed(bench, Rivals(layers, found.prices, total, multiple, limits), keep, progress)

        def plan_of(one: Measured) -> CompressionPlan:
            return assembled(seen, limits, layers, dict(one.choices), sample.name)

        facts = _facts(bench, found, place, keep, best, multiple)
        return replace(plan_of(best), measured={"latency": {**facts, "measured": _all(best, measured, plan_of)}})


def _ceilings(selector: Selector) -> Ceilings:
    if isinstance(selector, Budget) and not isinstance(selector, Search):
        return Ceilings(keep=selector.keep, of=selector.of)
    if not isinstance(selector, Ceilings):
        raise PlanError(f"--select {selector.name} chooses by no latency; use --select budget or ceilings")
    return selector


def _measurable(seen: Survey, bench: Bench) -> Survey:
    """The layers in whose place chains can be measured; the others stay dense."""
    reason = f"no chain can be measured in its place in a file of {bench.circumstances.target}"
    others = {item.name: reason for item in seen.items if item.name not in bench.layers}
    items = tuple(item for item in seen.items if item.name in bench.layers)
    return replace(seen, items=items, reasons={**seen.reasons, **others})


def _kept(limits: Ceilings, bench: Bench) -> float:
    """The fraction of the dense latency that may remain."""
    keeps = [limits.keep] if limits.of == "latency" and limits.keep is not None else []
    if limits.max_latency_ms is not None:
        if bench.dense_ms is None:
            raise PlanError("--max-latency-ms: the device counts instructions; use --keep F --of latency instead")
        keeps.append(limits.max_latency_ms / bench.dense_ms)
    return min(keeps)


def _first_time(found: Timings, scope: Scope, limits: Ceilings, keep: float, total: Cost) -> int:
    """What is asked of the table at first: the budget, or what the fastest chains take if that is more.

    Raises:
        BudgetError: all limits are out of reach, by far if it is that of the latency.
    """
    costs = []
    for geometry in found.geometries:
        dense, smaller = geometry.dense, geometry.costs(scope.methods or AUTO, scope.multiple)
        own = tuple(Candidate(*chain, 0.0, cost) for chain, cost in smaller.items())
        for item in geometry.items:
            priced = found.prices.on(LayerCandidates(item.name, (), dense, own))
            costs.append([priced.dense, *(one.cost for one in priced.candidates)])
    wanted = round(keep * found.prices.dense)
    replace(limits, time=round(wanted / FAR_OFF)).refuse_out_of_reach(costs, total)
    return max(wanted, total.time - sum(own[0].time - min(cost.time for cost in own) for own in costs))


def scored_chains(layers: Sequence[LayerCandidates]) -> list[tuple[str, Chain]]:
    """The candidates that can be chosen, by layer: these are timed themselves."""
    return [(layer.name, one.chain) for layer in layers for one in layer.candidates if one.loss is not None]


def _facts(bench: Bench, found: Timings, place: Place, keep: float, best: Measured, multiple: int) -> Json:
    """What a plan records of its latency."""
    at = bench.circumstances
    return {
        "target": at.target,
        "device": at.device,
        "machine": at.machine,
        "runtime": at.runtime,
        "threads": at.threads,
        "batch": at.batch,
        "unit": bench.unit,
        "dense": bench.dense_time,
        "keep": keep,
        **best.to_json(),
        "multiple": multiple,
        "multiple_from": "timings" if found.multiple else "a table",
        "load": round(load_here(), 2),
        "busy": is_busy(place),
    }


def _all(best: Measured, measured: Sequence[Measured], plan_of: Callable[[Measured], CompressionPlan]) -> list[Json]:
    """All that was measured; ``front`` marks what no other beats, which is kept as a plan."""
    found = []
    for one in measured:
        front, chosen = _is_front(one, measured), one.key == best.key
        kept = {"plan": replace(plan_of(one), rejected=(), outlook=()).to_json()} if front and not chosen else {}
        found.append({**one.to_json(), "front": front, "chosen": chosen, **kept})
    return found


def _is_front(one: Measured, among: Sequence[Measured]) -> bool:
    """Whether no other plan that was measured is both faster and of less loss."""
    return not any(
        (other.kept < one.kept and other.loss <= one.loss) or (other.kept <= one.kept and other.loss < one.loss)
        for other in among
    )


def is_busy(place: Place) -> bool:
    """Whether this machine has more to do than it has processors for, where it is measured on."""
    return place.device.name == "local" and load_here() > BUSY * (os.cpu_count() or 1)
