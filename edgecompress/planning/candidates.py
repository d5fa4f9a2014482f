"""What could replace a layer: every method at every sensible rank, with its cost, its error and its loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.batching import affordable
from edgecompress.calibrating.moments import FewMoments, Moments, collect, in_passes, measurable
from edgecompress.calibrating.sensitivity import Components, Metric
from edgecompress.calibrating.tables import Counts, counts_of
from edgecompress.costs import Shape, chain_cost
from edgecompress.decomposing.few_rows import fittable
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import NUMERICAL, is_table
from edgecompress.decompositions.fitting import quick
from edgecompress.decompositions.kernels import kernel_shape, kernels, weight_of
from edgecompress.decompositions.sketch import WIDE
from edgecompress.errors import first_line
from edgecompress.layers import refuse_unusable
from edgecompress.memory import give_back, naming_shortage, without
from edgecompress.models.datasets import Inputs, first
from edgecompress.planning.fits import MAX_SCORED, Fits
from edgecompress.planning.fronts import pareto_front, thinned
from edgecompress.planning.grids import grid_costs
from edgecompress.planning.scoring import MOST_CHANGE_BYTES, MOST_KEPT_BYTES, Fitted, Scoring
from edgecompress.plans import Cost, Ranks
from edgecompress.progress import Progress
from edgecompress.selectors.base import Candidate, LayerCandidates, Prices
from edgecompress.threads import in_parallel

SCORED_INPUTS = 256
"""Calibration inputs that losses are estimated on; moments and gradients settle long before the refit's do."""

COLLECTED_MACS, SCORED_MACS, FEWEST_SCORED = 1.5e11, 8e10, 12
"""Multiply-accumulates of the runs that moments, and losses, are estimated from: large models get fewer inputs; losses
come from no fewer than so many."""

TOKENS_MACS = 2e12
"""Likewise, of models that score tokens: their inputs are few and long, and nothing else has to be run for a loss."""

MOST_SLOW = 6
"""Ranks a layer, with calibration, of a method that is not automatic: each has to be fitted."""

MOST_WIDE = 10
"""Ranks of a method whose ranks have to be worked out one by one, for a layer of wide patches."""

WIDEST = 2048
"""Longer patches are fitted by methods alone whose ranks share one factorization, where any of them is asked for."""

MOST_LARGE_SCORED = 8
"""Candidates of a layer whose loss is worked out, of a model whose changes would take several passes otherwise."""

BY_WEIGHT = "judged by its weight alone"
FEW_NOTE = "fewer calibration inputs than it has inputs: scored by what they span, and by its weight beyond"
STEADY_NOTE = f"{BY_WEIGHT}: its inputs do not vary on the calibration inputs"


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
    own = kernels(item.layer).cpu()
    bare = LayerCandidates(
        item.name,
        tuple(weight.shape),
        chain_cost(item.layer, item.shapes),
        (),
        supported(item, methods),
        own,
        partial(_priced, item, own, multiple),
    )
    fits = Fits(own, moments, metric)
    return replace(bare, candidates=tuple(every_candidate(item, bare, fits, multiple)))


def every_candidate(item: Replaceable, bare: LayerCandidates, fits: Fits, multiple: int) -> Iterator[Candidate]:
    """By all methods of the layer, those that cost less than it."""
    for method in bare.methods:
        yield from _of_method(method, item, bare, fits, multiple)


def supported(item: Replaceable, methods: Sequence[str]) -> tuple[str, ...]:
    """Those of ``methods`` that can replace the layer."""
    return tuple(name for name in methods if DECOMPOSITIONS[name].supports(item.layer))


def smaller_costs(item: Replaceable, methods: Sequence[str], multiple: int) -> tuple[Cost, ...]:
    """The dense layer's cost, then that of every chain with fewer parameters and fewer MACs; no weight is read."""
    dense = chain_cost(item.layer, item.shapes)
    costs = (
        cost
        for method in supported(item, methods)
        for cost in grid_costs(method, item.layer, item.shapes, multiple).values()
    )
    return dense, *(cost for cost in costs if cost.saves_over(dense))


def _of_method(method: str, item: Replaceable, bare: LayerCandidates, fits: Fits, multiple: int) -> Iterator[Candidate]:
    """The method's candidates that cost less than the dense layer; errors are worked out for those alone."""
    costs, moments = grid_costs(method, item.layer, item.shapes, multiple), fits.moments
    smaller = [ranks for ranks, cost in costs.items() if cost.saves_over(bare.dense)]
    if moments is not None and not DECOMPOSITIONS[method].automatic:
        smaller = thinned(smaller, MOST_SLOW)
    elif moments is not None and method != "svd" and bare.kernels[0, 0].numel() > WIDE:
        smaller = thinned(smaller, MOST_WIDE)
    for ranks, error in zip(smaller, fits.errors(method, smaller), strict=True):
        yield Candidate(method, ranks, error, costs[ranks])


def _priced(item: Replaceable, stacked: Tensor, multiple: int, method: str, ranks: Ranks) -> Candidate:
    """A candidate at ``ranks`` rounded up to multiples, at most the largest."""
    decomposition = DECOMPOSITIONS[method]
    largest = decomposition.max_ranks(item.layer)
    rounded = tuple(min(most, -(-rank // multiple) * multiple) for rank, most in zip(ranks, largest, strict=True))
    with torch.device("meta"):
        cost = chain_cost(decomposition.chain(item.layer, rounded), item.shapes)
    return Candidate(method, rounded, Fits(stacked).errors(method, [rounded])[0], cost)


def collected_inputs(model: nn.Module, calibration: Calibration) -> Inputs:
    """The inputs whose moments candidates are fitted to."""
    inputs = first(calibration.fitting, SCORED_INPUTS)
    return first(inputs, affordable(model, inputs, TOKENS_MACS if calibration.tokens else COLLECTED_MACS))


def calibrated_candidates(
    model: nn.Module,
    items: Sequence[Replaceable],
    calibration: Calibration,
    methods: Sequence[str],
    multiple: int,
    progress: Progress,
    prices: Prices | None = None,
) -> list[LayerCandidates]:
    """The candidates of all layers with errors in the metric of their inputs and outputs, the best with a loss.

    Raises:
        ModelError: the model does not run on the calibration inputs, or gives NaN or infinity.
        PlanError: a weight is not finite or all zeros.
    """
    calibration.check(model)
    inputs = collected_inputs(model, calibration)
    few = first(inputs, affordable(model, inputs, SCORED_MACS, FEWEST_SCORED, fewer_of_large=True))
    scored = Scoring(model, few, classes=calibration.classes)
    names = tuple(item.name for item in items)
    by_name = {item.name: item for item in items}
    all_changes = sum(weight_of(item.layer).nbytes for item in items) * MAX_SCORED
    large, most = all_changes > MOST_KEPT_BYTES, MAX_SCORED if all_changes <= MOST_CHANGE_BYTES else MOST_LARGE_SCORED
    progress("plan: effect of each output on the loss", 0, 1, "")
    metrics = dict(calibration.output_metrics(model, names, SCORED_INPUTS))  # with its roots each takes much: see pop
    found: dict[str, LayerCandidates] = {}
    tables = tuple(item.name for item in items if is_table(item.layer))
    counts = counts_of(model, calibration.fitting, tables)
    for name in tables:
        seen = counts.get(name), metrics.get(name)
        found[name] = _calibrated(by_name[name], methods, multiple, *seen, most, alone=True).layer
    for part in in_passes({item.name: item.layer for item in items if item.name not in found}):
        moments = collect(model, inputs, [name for name in part if measurable(by_name[name].layer)])
        give_back()

        def candidates(name: str) -> Fitted:
            with naming_shortage(f"{name}: its candidates", without(name)):
                own = moments.pop(name, None), metrics.pop(name, None)  # noqa: B023
                alone = calibration.tokens
                fitted = _calibrated(by_name[name], methods, multiple, *own, most, alone=alone, prices=prices)
                return replace(fitted, changes=_compact(fitted.changes)) if large else fitted

        for name, of_layer in zip(part, in_parallel(candidates, part), strict=True):
            found[name] = of_layer.layer
            progress("plan: ranks that fit each layer", len(found), len(items), name)
            scored.add(name, of_layer)
            give_back()
    progress("plan: expected loss of each choice", 0, 1, "")
    return [scored.priced(found[name]) for name in names]


def _calibrated(
    item: Replaceable,
    methods: Sequence[str],
    multiple: int,
    moments: Moments | FewMoments | Counts | None,
    metric: Metric | None,
    most: int,
    *,
    alone: bool = False,
    prices: Prices | None = None,
) -> Fitted:
    """By the layer's inputs and outputs, or by its weight alone, with the reason, where those lead to no numbers.

    With ``alone`` positions count each for itself, as tokens do: losses come from the same spectra as errors.
    """
    if moments is None:
        layer = timed(weighed(item, methods, multiple), prices)
        return Fitted(replace(layer, note=layer.note or _note(item, None)))
    note = _note(item, moments)
    bare = candidates_of(item, (), multiple)
    try:
        fits = Fits(bare.kernels, moments.centred, metric)
        tried = _affordable(item, all_methods := supported(item, methods))
        left_out = {name: _too_wide(item) for name in all_methods if name not in tried}
        bare = replace(bare, methods=tried, left_out=left_out)
        layer = replace(bare, candidates=tuple(every_candidate(item, bare, fits, multiple)), note=note)
    except NUMERICAL as error:
        fits = Fits(bare.kernels)
        layer = replace(weighed(item, methods, multiple), note=f"{BY_WEIGHT}: {first_line(error)}")
    layer = timed(layer, prices)
    losses = fits.losses(layer.candidates) if alone else None
    if losses is not None:
        return Fitted(_priced_alone(layer, losses, fits, moments.mean))
    chosen = fits.scored(pareto_front(layer.candidates, min(most, fits.most_scored)))
    again = fits.change if isinstance(moments, FewMoments) else None
    return Fitted(layer, chosen, _changes(fits, chosen), moments.mean, again)


def _priced_alone(layer: LayerCandidates, losses: Sequence[float], fits: Fits, mean: Tensor) -> LayerCandidates:
    """With ``losses``, and what each SVD changes, which is a slice of what all of them are made of."""
    known = tuple(replace(one, loss=loss) for one, loss in zip(layer.candidates, losses, strict=True))
    ranks = [one.ranks[0] for one in known if one.method == "svd"]
    sliced = fits.sliced(max(ranks)) if ranks else None

    def changed(candidate: Candidate) -> tuple[Tensor, Tensor] | None:
        return (sliced.change(candidate), mean) if sliced is not None and candidate.method == "svd" else None

    return replace(layer, candidates=known, changed=changed)


def _note(item: Replaceable, moments: Moments | FewMoments | Counts | None) -> str:
    """What is out of the ordinary about how the layer is scored, or will be fitted."""
    if isinstance(moments, Counts):
        return ""
    size = prod(kernel_shape(item.layer)[1:])
    if moments is None:
        return "" if measurable(item.layer) else f"{BY_WEIGHT}: {size} inputs a patch are too many to measure"
    if bool(moments.steady().all()):
        return STEADY_NOTE
    if isinstance(moments, FewMoments):
        return FEW_NOTE
    return "" if fittable(item.layer, "svd") else f"fitted to its weight alone: {size} inputs a patch are too many"


def _affordable(item: Replaceable, methods: Sequence[str]) -> tuple[str, ...]:
    """Those of ``methods`` that can be fitted to the layer's inputs in seconds; all where none can."""
    wide = prod(kernel_shape(item.layer)[1:]) > WIDEST
    largest = {name: DECOMPOSITIONS[name].max_ranks(item.layer) for name in methods}
    few = tuple(name for name in methods if not wide or quick(DECOMPOSITIONS[name], largest[name]))
    return few or tuple(methods)


def _too_wide(item: Replaceable) -> str:
    return f"not tried: it takes minutes with {prod(kernel_shape(item.layer)[1:])} inputs a patch, over {WIDEST}"


def _changes(fits: Fits, chosen: Sequence[Candidate]) -> Tensor | Components | None:
    """What each candidate changes of the kernels, fitted to the weight alone where nothing else can be; else None."""
    for known in (fits, Fits(fits.kernels)):
        with suppress(*NUMERICAL):
            return known.changes(chosen) if chosen else None
    return None


def _compact(changes: Tensor | Components | None) -> Tensor | Components | None:
    """Changes in half the bytes, for large models: three digits tell what they cost."""
    return changes.bfloat16() if isinstance(changes, Tensor) else changes


def timed(layer: LayerCandidates, prices: Prices | None) -> LayerCandidates:
    """With times, where these are known."""
    return prices.on(layer) if prices else layer


def weighed(item: Replaceable, methods: Sequence[str], multiple: int) -> LayerCandidates:
    """A layer's candidates by its weight alone; none, with the reason, where that leads to no numbers."""
    try:
        return candidates_of(item, methods, multiple)
    except NUMERICAL as error:
        dense = chain_cost(item.layer, item.shapes)
        shape = tuple(weight_of(item.layer).shape)
        return LayerCandidates(item.name, shape, dense, (), note=f"no decomposition of its weight: {first_line(error)}")
