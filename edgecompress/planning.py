"""plan(): which layers are replaced, by which method, at which ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

import torch
from torch import nn

from edgecompress.costs import Cost, Shape, chain_cost, cost, input_shapes
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import PlanError
from edgecompress.files import Json
from edgecompress.layers import Found, describe, refuse_unusable, weighted_layers
from edgecompress.models import Inputs
from edgecompress.plans import CompressionPlan, LayerPlan, Ranks, Skipped
from edgecompress.progress import Progress, silent
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates, Selector

MOST_RANKS_PER_MODE = 16


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
    kept = [c for method in methods for c in _of_method(method, item.layer, weight.detach().cpu(), shapes, multiple)]
    smaller = tuple(c for c in kept if c.cost.macs < dense.macs and c.cost.params < dense.params)
    return LayerCandidates(item.name, tuple(weight.shape), dense, smaller)


def _of_method(
    method: str, layer: nn.Module, weight: torch.Tensor, shapes: list[Shape], multiple: int
) -> Iterator[Candidate]:
    decomposition = DECOMPOSITIONS[method]
    if not decomposition.supports(layer):
        return
    grid = rank_grid(decomposition.max_ranks(layer), multiple)
    errors = decomposition.errors(weight, grid)
    for ranks, error in zip(grid, errors, strict=True):
        with torch.device("meta"):
            chain = decomposition.chain(layer, ranks)
        yield Candidate(method, ranks, error, chain_cost(chain, shapes))


@cache
def rank_grid(largest: Ranks, multiple: int) -> tuple[Ranks, ...]:
    """Every combination of sensible ranks per mode."""
    return tuple(product(*(rank_steps(rank, multiple) for rank in largest)))


def rank_steps(largest: int, multiple: int) -> tuple[int, ...]:
    """Multiples of ``multiple`` up to ``largest``, evenly thinned to 16; ``largest`` itself where it is smaller."""
    steps = list(range(multiple, largest + 1, multiple)) or [largest]
    if len(steps) <= MOST_RANKS_PER_MODE:
        return tuple(steps)
    stride = (len(steps) - 1) / (MOST_RANKS_PER_MODE - 1)
    return tuple(steps[round(index * stride)] for index in range(MOST_RANKS_PER_MODE))


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
        chain = DECOMPOSITIONS[plan.method].chain(layer, plan.ranks)
    return countable_cost(chain, shapes)


def countable_cost(layer: nn.Module, shapes: list[Shape]) -> Json:
    """Parameters, and MACs where a closed form is known (None for other kinds of layers)."""
    try:
        macs: int | None = chain_cost(layer, shapes).macs
    except TypeError:
        macs = None
    return {"macs": macs, "params": sum(parameter.numel() for parameter in layer.parameters())}
