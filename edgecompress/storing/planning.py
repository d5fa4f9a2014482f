"""Which layers a codec stores, and with how large a core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import nn

from edgecompress.codecs import CODECS
from edgecompress.codecs.ada_tucker import install, stored_params
from edgecompress.codecs.dimensions import balanced
from edgecompress.costs import Shape, cost
from edgecompress.decomposing import matching
from edgecompress.decompositions.kernels import weight_of
from edgecompress.errors import BudgetError, PlanError
from edgecompress.layers import weighted_layers, without_numbers_to_fit
from edgecompress.models import copied
from edgecompress.models.adapting import adapters_of
from edgecompress.models.datasets import Inputs
from edgecompress.planning import Scope
from edgecompress.plans import CompressionPlan, Cost, LayerPlan, Skipped
from edgecompress.settings import Storage
from edgecompress.storing.axes import image_axes

EDGES = 512
"""The largest edge of a core that is looked for."""


def plan_storage(
    model: nn.Module,
    inputs: Inputs,
    storage: Storage,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    name: str = "",
) -> CompressionPlan:
    """Let every layer in scope be stored by a codec, with a core of one edge for all; MACs stay what they are.

    The edge is ``storage.rank``, or the largest one at which all parameters together are at most ``storage.keep`` of
    the dense ones. A layer that its factors would not make smaller stays plain, unless it shares a core. The error of a
    layer is that of factors fitted to its dense weight: near 1, they have to be trained from scratch.

    Raises:
        PlanError: a pattern matches no layer, or no layer can be stored.
        BudgetError: not even a core of edge 1 is within ``keep``.
    """
    scope, total, found = Scope((), 1, tuple(include), tuple(exclude)), cost(model, inputs), weighted_layers(model)
    matching([item.name for item in found], (*scope.include, *scope.exclude), "layer")
    codec = CODECS[storage.codec]
    reasons = {
        item.name: item.refused or scope.refusal(item.name) or codec.supports(item.layer).reason for item in found
    }
    reasons |= {
        item.name: without_numbers_to_fit(item.name, weight_of(item.layer)) for item in found if not reasons[item.name]
    }
    shapes = {item.name: tuple(weight_of(item.layer).shape) for item in found if not reasons[item.name]}
    if not shapes:
        raise PlanError(f"{name or 'the model'}: {codec.name} can store none of its layers; see `edgecompress inspect`")
    axes = {n: (prod(shape),) for n, shape in shapes.items()} if storage.mix_axes else _axes(shapes, model, inputs)
    planned, params = _stored(_Weights(shapes, axes), storage, total)
    if not planned:
        raise PlanError(
            f"{name or 'the model'}: no layer becomes smaller at --rank {storage.rank}; ask for a smaller one"
        )
    reasons |= {n: "no fewer numbers as factors" for n in shapes if n not in {layer.name for layer in planned}}
    skipped = tuple(Skipped(n, reason) for n, reason in reasons.items() if reason)
    fitted = _with_errors(model, planned, shared=codec.shared)
    compressed, made_by = Cost(params, total.macs), adapters_of(model)
    return CompressionPlan(
        model=name, layers=fitted, skipped=skipped, dense=total, compressed=compressed, adapters=made_by
    )


def _with_errors(model: nn.Module, layers: Sequence[LayerPlan], *, shared: bool) -> tuple[LayerPlan, ...]:
    """The layers with the relative squared error of the factors that fit their weights."""
    small, fitted = copied(model), []
    install(small, layers, shared=shared)
    for layer in layers:
        weight, kept = (weight_of(of.get_submodule(layer.name)).detach().double() for of in (model, small))
        fitted.append(replace(layer, error=float((kept - weight).square().sum() / weight.square().sum())))
    return tuple(fitted)


@dataclass(frozen=True, slots=True)
class _Weights:
    """Shapes of the weights that may be stored, and the axes along which their sizes are found."""

    shapes: Mapping[str, Shape]
    axes: Mapping[str, Shape]


def _axes(shapes: Mapping[str, Shape], model: nn.Module, inputs: Inputs) -> dict[str, Shape]:
    """What each weight's numbers lie along: its own axes, and those of the map that a Linear reads flattened."""
    images = image_axes(model, inputs)
    return {name: (*shape[:1], *images.get(name, shape[1:])) for name, shape in shapes.items()}


def _stored(weights: _Weights, storage: Storage, total: Cost) -> tuple[list[LayerPlan], int]:
    """The layers and all parameters together at the requested rank, or the largest that ``keep`` allows."""
    if storage.rank is not None:
        return _stored_at(weights, storage, storage.rank, total)
    most, edge = storage.keep * total.params, 1
    made = _stored_at(weights, storage, edge, total)
    if made[1] > most:
        of = f"{total.params:,} parameters"
        raise BudgetError.beyond(
            storage.keep, of, made[1], total.params, lambda nearest: f": a core of edge 1 keeps {nearest:.4f}"
        )
    while edge < EDGES and (larger := _stored_at(weights, storage, edge + 1, total))[1] <= most:
        made, edge = larger, edge + 1
    return made


def _stored_at(weights: _Weights, storage: Storage, edge: int, total: Cost) -> tuple[list[LayerPlan], int]:
    shared, layers = CODECS[storage.codec].shared, []
    for name, shape in weights.shapes.items():
        dims = balanced(weights.axes[name], storage.order, pad=storage.pad)
        ranks = tuple(edge if shared else min(edge, size) for size in dims)
        layer = LayerPlan(name, storage.codec, ranks, shape, 0.0, None, dims)
        if shared or stored_params([layer], shared=False) < prod(shape):
            layers.append(layer)
    dense = sum(prod(layer.shape) for layer in layers)
    return layers, total.params - dense + stored_params(layers, shared=shared)
