"""What could replace a layer: every method at every sensible rank, with its cost, its error and its loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.moments import Moments, collect, in_passes
from edgecompress.calibrating.sensitivity import Metric, change_losses
from edgecompress.costs import Shape, chain_cost
from edgecompress.decomposing import fitted
from edgecompress.decompositions import DECOMPOSITIONS, Decomposition
from edgecompress.decompositions.base import NUMERICAL, squared_norm
from edgecompress.decompositions.kernels import kernels, weight_of
from edgecompress.decompositions.projection import squared_outputs
from edgecompress.errors import first_line
from edgecompress.layers import refuse_unusable
from edgecompress.models.datasets import Inputs, first
from edgecompress.plans import Cost, Ranks
from edgecompress.progress import Progress
from edgecompress.selectors.base import Candidate, LayerCandidates
from edgecompress.threads import in_parallel

Item = TypeVar("Item")

MOST_RANKS_PER_MODE = {1: 32, 2: 12, 3: 6}
"""By the number of ranks a method has: at most 32 to 216 combinations a layer."""

MAX_SCORED = 16
"""Candidates of a layer whose loss is worked out: evenly spread over those that no other beats in cost and error."""

SCORED_INPUTS = 256
"""Calibration inputs that losses are estimated on; moments and gradients settle long before the refit's do."""

SCORED_STEPS = 3
"""Refining steps of a candidate that is only scored."""

MOST_SLOW = 6
"""Ranks a layer, with calibration, of a method that is not automatic: each has to be fitted."""

WIDE = 1024
"""Patches longer than this make every candidate a matter of seconds: fewer are looked at."""

MOST_WIDE = {"ranks": 10, "scored": 6}
"""Ranks of a method, and candidates whose loss is worked out, for a layer of wide patches."""

BY_WEIGHT = "judged by its weight alone"
STEADY_NOTE = f"{BY_WEIGHT}: its inputs do not vary on the calibration inputs"
UNSEEN_NOTE = "no change of it reaches the model's output on the calibration inputs"


@dataclass(frozen=True, slots=True)
class Replaceable:
    """A layer that may be replaced, with the shapes of its inputs."""

    name: str
    layer: nn.Module
    shapes: list[Shape]


def candidates_of(
    item: Replaceable,
    methods: Sequence[str],
    multiple: int,
    moments: Tensor | None = None,
    metric: Metric | None = None,
) -> LayerCandidates:
    """A layer's candidates with fewer parameters and fewer MACs.

    ``moments`` (groups, D, D) and ``metric`` make their errors those of the outputs.

    Raises:
        PlanError: the weight is not finite or all zeros.
    """
    weight = item.layer.weight
    assert isinstance(weight, Tensor)
    refuse_unusable(item.name, weight)
    supported = tuple(name for name in methods if DECOMPOSITIONS[name].supports(item.layer))
    own = kernels(item.layer).cpu()
    bare = LayerCandidates(
        item.name,
        tuple(weight.shape),
        chain_cost(item.layer, item.shapes),
        (),
        supported,
        own,
        partial(_priced, item, own, multiple),
    )
    scaled = own.double() if metric is None else torch.einsum("gts,gs...->gt...", metric.root, own.double())
    found = [c for method in supported for c in _of_method(method, item, bare, scaled, moments, multiple)]
    return replace(bare, candidates=tuple(found))


def smaller_costs(item: Replaceable, methods: Sequence[str], multiple: int) -> tuple[Cost, ...]:
    """The dense layer's cost, then that of every chain with fewer parameters and fewer MACs; no weight is read."""
    dense = chain_cost(item.layer, item.shapes)
    supported = [name for name in methods if DECOMPOSITIONS[name].supports(item.layer)]
    costs = (cost for method in supported for cost in _chain_costs(method, item, multiple).values())
    return dense, *(cost for cost in costs if cost.saves_over(dense))


def _of_method(
    method: str, item: Replaceable, bare: LayerCandidates, scaled: Tensor, moments: Tensor | None, multiple: int
) -> Iterator[Candidate]:
    """The method's candidates that cost less than the dense layer; errors are worked out for those alone."""
    costs = _chain_costs(method, item, multiple)
    smaller = [ranks for ranks, cost in costs.items() if cost.saves_over(bare.dense)]
    if moments is not None and not DECOMPOSITIONS[method].automatic:
        smaller = thinned(smaller, MOST_SLOW)
    elif moments is not None and moments.shape[-1] > WIDE:
        smaller = thinned(smaller, MOST_WIDE["ranks"])
    for ranks, error in zip(smaller, _errors(method, scaled, smaller, moments), strict=True):
        yield Candidate(method, ranks, error, costs[ranks])


def _errors(method: str, scaled: Tensor, candidates: Sequence[Ranks], moments: Tensor | None) -> list[float]:
    """Relative squared errors of a whole layer: those of its groups, by their share of the whole."""
    total, errors = 0.0, torch.zeros(len(candidates), dtype=torch.float64)
    for group, kernel in enumerate(scaled):
        own = None if moments is None else moments[group].double()
        size = squared_norm(kernel) if own is None else float(squared_outputs(kernel, own))
        if size > 0:
            errors += size * torch.tensor(DECOMPOSITIONS[method].errors(kernel, candidates, own), dtype=torch.float64)
        total += size
    if not (math.isfinite(total) and bool(errors.isfinite().all())):
        raise FloatingPointError(f"the errors of {method} are not finite")
    return (errors / total).tolist() if total else [0.0] * len(candidates)


def _priced(item: Replaceable, stacked: Tensor, multiple: int, method: str, ranks: Ranks) -> Candidate:
    """A candidate at ``ranks`` rounded up to multiples, at most the largest."""
    decomposition = DECOMPOSITIONS[method]
    largest = decomposition.max_ranks(item.layer)
    rounded = tuple(min(most, -(-rank // multiple) * multiple) for rank, most in zip(ranks, largest, strict=True))
    with torch.device("meta"):
        cost = chain_cost(decomposition.chain(item.layer, rounded), item.shapes)
    return Candidate(method, rounded, _errors(method, stacked.double(), [rounded], None)[0], cost)


_COSTS: dict[tuple[object, ...], dict[Ranks, Cost]] = {}
"""Costs of all chains of a geometry: networks repeat few geometries many times."""


def _chain_costs(method: str, item: Replaceable, multiple: int) -> dict[Ranks, Cost]:
    """The cost of the method's chain at every rank of its grid."""
    key = (method, str(item.layer), str(next(item.layer.parameters()).dtype), tuple(item.shapes), multiple)
    if key not in _COSTS:
        decomposition = DECOMPOSITIONS[method]
        with torch.device("meta"):
            grid = rank_grid(decomposition.max_ranks(item.layer), multiple)
            _COSTS[key] = {ranks: chain_cost(decomposition.chain(item.layer, ranks), item.shapes) for ranks in grid}
    return _COSTS[key]


@cache
def rank_grid(largest: Ranks, multiple: int) -> tuple[Ranks, ...]:
    """Every combination of sensible ranks per mode."""
    most = MOST_RANKS_PER_MODE[len(largest)]
    return tuple(product(*(rank_steps(rank, multiple, most) for rank in largest)))


def rank_steps(largest: int, multiple: int, most: int) -> tuple[int, ...]:
    """Multiples of ``multiple`` up to ``largest``, thinned to ``most`` by equal ratios; ``largest`` where smaller."""
    steps = range(multiple, largest + 1, multiple) or range(largest, largest + 1)
    if len(steps) <= most:
        return tuple(steps)
    chosen, last = [], 0
    for left in range(most, 0, -1):
        last = max(last + 1, round(last * (len(steps) / max(last, 1)) ** (1 / left)))
        chosen.append(steps[min(last, len(steps)) - 1])
    return tuple(chosen)


def calibrated_candidates(
    model: nn.Module,
    items: Sequence[Replaceable],
    calibration: Calibration,
    methods: Sequence[str],
    multiple: int,
    progress: Progress,
) -> list[LayerCandidates]:
    """The candidates of all layers with errors in the metric of their inputs and outputs, the best with a loss.

    Raises:
        ModelError: the model does not run on the calibration inputs, or gives NaN or infinity.
        PlanError: a weight is not finite or all zeros.
    """
    calibration.check(model)
    inputs = first(calibration.fitting, SCORED_INPUTS)
    names = tuple(item.name for item in items)
    by_name = {item.name: item for item in items}
    progress("plan: effect of each output on the loss", 0, 1, "")
    metrics = calibration.output_metrics(model, names, SCORED_INPUTS)
    found: dict[str, LayerCandidates] = {}
    for part in in_passes({item.name: item.layer for item in items}):
        moments = collect(model, inputs, part)

        def candidates(name: str) -> LayerCandidates:
            return _calibrated(by_name[name], methods, multiple, moments.get(name), metrics.get(name))  # noqa: B023

        for name, layer in zip(part, in_parallel(candidates, part), strict=True):
            found[name] = layer
            progress("plan: ranks that fit each layer", len(found), len(items), name)
        of_part = {name: found[name] for name in part}
        found |= _with_scores(model, inputs, of_part, moments, metrics, calibration, progress)
    return [found[name] for name in names]


def _calibrated(
    item: Replaceable, methods: Sequence[str], multiple: int, moments: Moments | None, metric: Metric | None
) -> LayerCandidates:
    """By the layer's inputs and outputs, or by its weight alone, with the reason, where those lead to no numbers."""
    if moments is None:
        return weighed(item, methods, multiple)
    note = STEADY_NOTE if bool(moments.steady().all()) else ""
    try:
        return replace(candidates_of(item, methods, multiple, moments.centred, metric), note=note)
    except NUMERICAL as error:
        return replace(weighed(item, methods, multiple), note=f"{BY_WEIGHT}: {first_line(error)}")


def weighed(item: Replaceable, methods: Sequence[str], multiple: int) -> LayerCandidates:
    """A layer's candidates by its weight alone; none, with the reason, where that leads to no numbers."""
    try:
        return candidates_of(item, methods, multiple)
    except NUMERICAL as error:
        dense = chain_cost(item.layer, item.shapes)
        shape = tuple(weight_of(item.layer).shape)
        return LayerCandidates(item.name, shape, dense, (), note=f"no decomposition of its weight: {first_line(error)}")


def _with_scores(
    model: nn.Module,
    inputs: Inputs,
    layers: Mapping[str, LayerCandidates],
    moments: Mapping[str, Moments],
    metrics: Mapping[str, Metric],
    calibration: Calibration,
    progress: Progress,
) -> dict[str, LayerCandidates]:
    """The same with the loss of the candidates that no other beats."""
    chosen = {name: pareto_front(layer.candidates, _max_scored(layer)) for name, layer in layers.items()}
    scored = [name for name in layers if chosen[name] and name in moments]

    def change(name: str) -> Tensor | None:
        return _changes_of(layers[name], chosen[name], moments[name].centred, metrics.get(name))

    changes: dict[str, Tensor] = {}
    for done, (name, of_layer) in enumerate(zip(scored, in_parallel(change, scored), strict=True), start=1):
        changes |= {name: of_layer} if of_layer is not None else {}
        progress("plan: expected loss of each choice", done, len(scored), name)
    losses = change_losses(model, inputs, changes, moments, classes=calibration.classes)
    return {name: _with_losses(layer, chosen[name], losses.get(name)) for name, layer in layers.items()}


def _with_losses(layer: LayerCandidates, chosen: Sequence[Candidate], losses: Tensor | None) -> LayerCandidates:
    if losses is None:
        return layer
    known = {(c.method, c.ranks): loss for c, loss in zip(chosen, losses.tolist(), strict=True)}
    scored = (replace(c, loss=known.get((c.method, c.ranks))) for c in layer.candidates)
    note = layer.note if bool(losses.any()) else layer.note or UNSEEN_NOTE
    return replace(layer, candidates=tuple(scored), note=note)


def _changes_of(
    layer: LayerCandidates, chosen: Sequence[Candidate], second: Tensor, metric: Metric | None
) -> Tensor | None:
    """What each candidate changes of the kernels, fitted to its weight alone where nothing else can be; else None."""
    for known in ((second, metric), (None, None)):
        with suppress(*NUMERICAL):
            return _changes(layer, chosen, *known)
    return None


def _changes(
    layer: LayerCandidates, chosen: Sequence[Candidate], second: Tensor | None, metric: Metric | None
) -> Tensor:
    """(candidates, groups, T, D): what each candidate changes of the kernels."""
    dense = layer.kernels.double()
    weights = [fitted(with_few_steps(DECOMPOSITIONS[c.method]), c.ranks, dense, second, metric)[1] for c in chosen]
    return torch.stack([(weight - dense).flatten(2) for weight in weights]).float()


def with_few_steps(method: Decomposition) -> Decomposition:
    """The method with few refining steps: enough to compare candidates."""
    return replace(method, steps=SCORED_STEPS) if hasattr(method, "steps") else method  # type: ignore[type-var]


def _max_scored(layer: LayerCandidates) -> int:
    wide = layer.kernels[0, 0].numel() > WIDE
    return MOST_WIDE["scored"] if wide else MAX_SCORED


def pareto_front(candidates: Sequence[Candidate], most: int = MAX_SCORED) -> list[Candidate]:
    """Those that no other beats in MACs and error or in parameters and error, thinned evenly along the front."""
    kept: dict[tuple[str, Ranks], Candidate] = {}
    for size in ("macs", "params"):
        front: list[Candidate] = []
        for candidate in sorted(candidates, key=lambda c: (getattr(c.cost, size), c.error)):
            if not front or candidate.error < front[-1].error:
                front.append(candidate)
        kept |= {(candidate.method, candidate.ranks): candidate for candidate in thinned(front, most)}
    return list(kept.values())


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` of ``items``, evenly spread, with both ends."""
    stride = max(1.0, (len(items) - 1) / (most - 1))
    return [items[round(index * stride)] for index in range(min(most, len(items)))]
