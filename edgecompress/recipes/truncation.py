"""Cutting ordered factors to a budget without retraining: greedily, where it costs least for what it saves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.costs import chain_cost, cost_and_shapes
from edgecompress.decomposing import decompose
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.kernels import kernels, weight_from
from edgecompress.errors import BudgetError
from edgecompress.layers import weighted_layers
from edgecompress.models import Sample, copied, put_state
from edgecompress.planning import Scope
from edgecompress.plans import CompressionPlan, Cost, LayerPlan, Skipped
from edgecompress.recipes.ordered_layers import Ranked, ranked_layers
from edgecompress.selectors import Budget

SVD = DECOMPOSITIONS["svd"]


@dataclass(frozen=True, slots=True)
class Truncated:
    """A plan and its model: ordered factors cut to a budget."""

    plan: CompressionPlan
    model: nn.Module


@dataclass(frozen=True, slots=True)
class Cut:
    """A layer at a rank: what it costs, and the relative squared error of its weight."""

    rank: int
    cost: Cost
    error: float


def truncate(
    model: nn.Module, dense: nn.Module, full: CompressionPlan, budget: Budget, scope: Scope, sample: Sample
) -> Truncated:
    """``model``, whose layers are ``Ranked``, within ``budget`` of ``dense``; layers whose factors save nothing merged.

    Raises:
        BudgetError: no cut meets the budget.
    """
    folded = _folded(model, dense)
    total, shapes = cost_and_shapes(dense, sample.inputs)
    ladders = {
        name: list(_ladder(layer, dense.get_submodule(name), shapes[name], scope.multiple))
        for name, layer in ranked_layers(model)
    }
    costs = {name: chain_cost(dense.get_submodule(name), shapes[name]) for name in ladders}
    picks = _greedy(ladders, costs, total, budget)
    chosen = {name: ladders[name][pick - 1] for name, pick in picks.items() if pick}
    made = _plan(full, chosen, costs, total, sample.name, [item.name for item in weighted_layers(dense)])
    return Truncated(made, _filled(folded, model, made))


def _ladder(layer: Ranked, dense: nn.Module, shapes: list[tuple[int, ...]], multiple: int) -> Iterator[Cut]:
    """Ever smaller ranks that save both MACs and parameters, from the ranks that are alive down."""
    most, whole = SVD.max_ranks(dense)[0], chain_cost(dense, shapes)
    alive = min(most, -(-int(layer.rank) // multiple) * multiple)
    for rank in sorted({alive, *range(multiple, alive + 1, multiple)}, reverse=True):
        with torch.device("meta"):
            own = chain_cost(SVD.chain(dense, (rank,)), shapes)
        if own.saves_over(whole):
            yield Cut(rank, own, _error(layer, rank))


def _error(layer: Ranked, rank: int) -> float:
    """The squared norm of what the ranks beyond ``rank`` add to the weight, relative to the weight's."""
    columns, rows = layer.columns().detach().double(), layer.rows().detach().double()
    whole = torch.einsum("grt,grn->gtn", columns, rows)
    tail = torch.einsum("grt,grn->gtn", columns[:, rank:], rows[:, rank:])
    return float(tail.square().sum() / whole.square().sum().clamp_min(1e-300))


def _greedy(ladders: Mapping[str, list[Cut]], costs: Mapping[str, Cost], total: Cost, budget: Budget) -> dict[str, int]:
    """How many steps down its ladder each layer takes; 0 leaves it dense. Least error for what it saves goes first.

    A layer whose live ranks save something takes them whatever the budget: they cost no error.
    """
    picks = {name: int(bool(cuts) and cuts[0].error == 0) for name, cuts in ladders.items()}
    room, size = int(budget.keep * budget.size(total)), budget.size(total)
    sizes = {name: [budget.size(costs[name]), *(budget.size(cut.cost) for cut in ladders[name])] for name in ladders}
    errors = {name: [0.0, *(cut.error for cut in ladders[name])] for name in ladders}
    size -= sum(sizes[name][0] - sizes[name][at] for name, at in picks.items())
    while size > room:
        steps = [
            ((errors[name][to] - errors[name][at]) / max(1, sizes[name][at] - sizes[name][to]), name, to)
            for name, at in picks.items()
            for to in range(at + 1, len(sizes[name]))
            if sizes[name][to] < sizes[name][at]
        ]
        if not steps:
            raise BudgetError.beyond(budget.keep, budget.of, size, budget.size(total), _way_out)
        _, name, to = min(steps)
        size -= sizes[name][picks[name]] - sizes[name][to]
        picks[name] = to
    return picks


def _way_out(nearest: float) -> str:
    return (
        f" by cutting ranks: the smallest keep {nearest:.3f}; "
        f"ask for --keep {min(1, nearest + 0.001):.3f} or more, or a smaller --multiple"
    )


def _plan(
    full: CompressionPlan,
    chosen: Mapping[str, Cut],
    costs: Mapping[str, Cost],
    total: Cost,
    name: str,
    order: Sequence[str],
) -> CompressionPlan:
    layers = tuple(
        LayerPlan(layer.name, "svd", (chosen[layer.name].rank,), layer.shape, chosen[layer.name].error)
        for layer in full.layers
        if layer.name in chosen
    )
    reason = "its factors would save nothing, or the budget is met without it"
    dense = tuple(Skipped(layer.name, reason) for layer in full.layers if layer.name not in chosen)
    skipped = sorted((*full.skipped, *dense), key=lambda skip: order.index(skip.name))
    left = sum((cut.cost - costs[layer] for layer, cut in chosen.items()), start=total)
    return CompressionPlan(
        model=name,
        layers=layers,
        skipped=tuple(skipped),
        dense=total,
        compressed=left,
        rehearsed=True,
        adapters=full.adapters,
    )


def _folded(model: nn.Module, dense: nn.Module) -> nn.Module:
    """``dense`` with the weights that the live factors stand for, and everything else of ``model``."""
    whole, ranked = copied(dense), dict(ranked_layers(model))
    state = dict(model.state_dict())
    for name, layer in ranked.items():
        prefix = f"{name}." if name else ""
        for inner in layer.state_dict():
            del state[prefix + inner]
        state[f"{prefix}weight"] = _weight(layer, dense.get_submodule(name))
        if layer.expand.bias is not None:
            assert isinstance(layer.expand.bias, Tensor)
            state[f"{prefix}bias"] = layer.expand.bias.detach()
    put_state(whole, state)
    return whole.eval()


def _weight(layer: Ranked, dense: nn.Module) -> Tensor:
    """The weight, in the layout of ``dense``, of all ranks; dead ones are zeros."""
    stacked = torch.einsum("grt,grn->gtn", layer.columns().detach(), layer.rows().detach())
    return weight_from(dense, stacked.unflatten(2, tuple(kernels(dense).shape[2:])))


def _filled(folded: nn.Module, model: nn.Module, made: CompressionPlan) -> nn.Module:
    """``folded`` decomposed by ``made``, its chains filled with the first ranks of the trained factors."""
    small = decompose(folded, made, fill=False)
    with torch.no_grad():
        for layer in made.layers:
            chain, trained = small.get_submodule(layer.name), model.get_submodule(layer.name)
            assert isinstance(trained, Ranked)
            _fill(chain, trained, layer.ranks[0])
    return small.eval()


def _fill(chain: nn.Module, trained: Ranked, rank: int) -> None:
    reduce, expand = chain.get_submodule("reduce"), chain.get_submodule("expand")
    reduce.load_state_dict({"weight": trained._cut_rows(rank)})
    state = {"weight": trained._cut_columns(rank)}
    if isinstance(trained.expand.bias, Tensor):
        state["bias"] = trained.expand.bias
    expand.load_state_dict(state)
