"""plan(): which layers are replaced, by which method, at which ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import torch
from torch import nn

from edgecompress.costs import Cost, Shape, chain_cost, cost, input_shapes
from edgecompress.datasets import Inputs
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import PlanError
from edgecompress.files import Json
from edgecompress.layers import Found, describe, refuse_unusable, weighted_layers
from edgecompress.plans import CompressionPlan, LayerPlan, Ranks, Skipped
from edgecompress.progress import Progress, silent
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates, Selector

MOST_RANKS_PER_MODE = {1: 32, 2: 16, 3: 6}
"""By the number of ranks a method has: at most 32 to 256 combinations a layer."""


def plan(
    model: nn.Module,
    inputs: Inputs,
    selector: Selector,
    *,
    methods: Sequence[str] = (),
    multiple: int = 8,
    name: str = "",
    progress: Progress = silent,
) -> CompressionPlan:
    """Choose method and ranks for every layer of ``model``.

    ``methods`` names entries of ``DECOMPOSITIONS`` (none: all of them); ranks are multiples of ``multiple``,
    or the layer's largest rank where that is smaller. Only candidates with fewer parameters and fewer MACs
    than the dense layer are considered.

    Raises:
        PlanError: an unknown method, a bad multiple, or a weight that is not finite or all zeros.
        BudgetError: the selector's budget cannot be met.
    """
    methods = _checked(methods, multiple)
    total, shapes = cost(model, inputs), input_shapes(model, inputs)
    layers, skipped = [], []
    found = weighted_layers(model)
    for done, item in enumerate(found, start=1):
        progress("plan", done, len(found), item.name)
        reason = item.refused or ("" if item.name in shapes else "does not run on the example input")
        if reason:
            skipped.append(Skipped(item.name, reason))
        else:
            layers.append(_candidates(item, shapes[item.name], methods, multiple))
    choices = selector.select(layers, total)
    return _assemble(name, total, layers, choices, skipped, found)


def _checked(methods: Sequence[str], multiple: int) -> tuple[str, ...]:
    unknown = [method for method in methods if method not in DECOMPOSITIONS]
    if unknown:
        raise PlanError(f"no method {unknown[0]!r}; there are {', '.join(DECOMPOSITIONS)}")
    if multiple < 1:
        raise PlanError(f"ranks cannot be rounded to a multiple of {multiple}; use 1 or more")
    return tuple(methods) or tuple(DECOMPOSITIONS)


def _candidates(item: Found, shapes: list[Shape], methods: Sequence[str], multiple: int) -> LayerCandidates:
    weight = item.layer.weight
    assert isinstance(weight, torch.Tensor)
    refuse_unusable(item.name, weight)
    dense = chain_cost(item.layer, shapes)
    numbers = weight.detach().cpu()
    kept = (c for method in methods for c in _of_method(method, item.layer, numbers, shapes, dense, multiple))
    return LayerCandidates(item.name, tuple(weight.shape), dense, tuple(kept))


def _of_method(
    method: str, layer: nn.Module, weight: torch.Tensor, shapes: list[Shape], dense: Cost, multiple: int
) -> Iterator[Candidate]:
    """The method's candidates that cost less than the dense layer; errors are worked out for those alone."""
    decomposition = DECOMPOSITIONS[method]
    if not decomposition.supports(layer):
        return
    costs = _chain_costs(method, layer, shapes, multiple)
    smaller = [ranks for ranks, cost in costs.items() if cost.macs < dense.macs and cost.params < dense.params]
    for ranks, error in zip(smaller, decomposition.errors(weight, smaller), strict=True):
        yield Candidate(method, ranks, error, costs[ranks])


_COSTS: dict[tuple[object, ...], dict[Ranks, Cost]] = {}
"""Costs of all chains of a geometry: networks repeat few geometries many times."""


def _chain_costs(method: str, layer: nn.Module, shapes: list[Shape], multiple: int) -> dict[Ranks, Cost]:
    """The cost of the method's chain at every rank of its grid."""
    key = (method, str(layer), str(next(layer.parameters()).dtype), tuple(shapes), multiple)
    if key not in _COSTS:
        decomposition = DECOMPOSITIONS[method]
        with torch.device("meta"):
            grid = rank_grid(decomposition.max_ranks(layer), multiple)
            _COSTS[key] = {ranks: chain_cost(decomposition.chain(layer, ranks), shapes) for ranks in grid}
    return _COSTS[key]


@cache
def rank_grid(largest: Ranks, multiple: int) -> tuple[Ranks, ...]:
    """Every combination of sensible ranks per mode."""
    most = MOST_RANKS_PER_MODE[len(largest)]
    return tuple(product(*(rank_steps(rank, multiple, most) for rank in largest)))


def rank_steps(largest: int, multiple: int, most: int) -> tuple[int, ...]:
    """Multiples of ``multiple`` up to ``largest``, evenly thinned to ``most``; ``largest`` itself where smaller."""
    steps = list(range(multiple, largest + 1, multiple)) or [largest]
    if len(steps) <= most:
        return tuple(steps)
    stride = (len(steps) - 1) / (most - 1)
    return tuple(steps[round(index * stride)] for index in range(most))


def _assemble(
    name: str,
    total: Cost,
    layers: Sequence[LayerCandidates],
    choices: dict[str, Choice],
    skipped: list[Skipped],
    found: Sequence[Found],
) -> CompressionPlan:
    """The plan, its layers in the model's order, with the cost it predicts."""
    macs, params, chosen = total.macs, total.params, []
    for layer in layers:
        choice = choices[layer.name]
        if isinstance(choice, str):
            skipped.append(Skipped(layer.name, choice if layer.candidates else "no rank makes it smaller"))
            continue
        macs += choice.cost.macs - layer.dense.macs
        params += choice.cost.params - layer.dense.params
        chosen.append(LayerPlan(layer.name, choice.method, choice.ranks, layer.shape, choice.error))
    order = {item.name: index for index, item in enumerate(found)}
    in_order = sorted(skipped, key=lambda skip: order[skip.name])
    return CompressionPlan(name, tuple(chosen), tuple(in_order), total.macs, total.params, macs, params)


def layer_costs(model: nn.Module, inputs: Inputs, plan: CompressionPlan) -> list[Json]:
    """For every layer of ``plan``, in the model's order: kind, method, ranks, reason, and cost before and after."""
    shapes = input_shapes(model, inputs)
    chosen = {layer.name: layer for layer in plan.layers}
    reasons = {skip.name: skip.reason for skip in plan.skipped}
    rows = []
    for item in weighted_layers(model):
        layer_plan, runs = chosen.get(item.name), shapes.get(item.name, [])
        before = countable_cost(item.layer, runs)
        rows.append(
            {
                "name": item.name,
                "kind": describe(item.layer),
                "method": layer_plan.method if layer_plan else None,
                "ranks": list(layer_plan.ranks) if layer_plan else None,
                "error": layer_plan.error if layer_plan else None,
                "reason": reasons.get(item.name),
                "dense": before,
                "compressed": _chain_summary(item.layer, layer_plan, runs) if layer_plan else before,
            }
        )
    return rows


def _chain_summary(layer: nn.Module, plan: LayerPlan, shapes: list[Shape]) -> Json:
    with torch.device("meta"):
        return countable_cost(DECOMPOSITIONS[plan.method].chain(layer, plan.ranks), shapes)


def countable_cost(layer: nn.Module, shapes: list[Shape]) -> Json:
    """Parameters, and MACs where they are known (None: no closed form, or the layer itself was not seen running)."""
    try:
        macs: int | None = chain_cost(layer, shapes).macs if shapes else None
    except TypeError:
        macs = None
    return {"macs": macs, "params": sum(parameter.numel() for parameter in layer.parameters())}
