"""What each layer of a plan costs, dense and replaced."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from edgecompress.codecs import CODECS
from edgecompress.codecs.ada_tucker import stored_params
from edgecompress.costs import Shape, bytes_of, chain_cost, input_shapes
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.kernels import weight_of
from edgecompress.files import Json
from edgecompress.layers import describe, weighted_layers
from edgecompress.models.adapting import adapted
from edgecompress.models.datasets import Inputs
from edgecompress.plans import CompressionPlan, LayerPlan


def layer_costs(model: nn.Module, inputs: Inputs, plan: CompressionPlan) -> list[Json]:
    """For every layer of ``plan``, in the model's order: kind, method, ranks, reason or note, and cost."""
    model = adapted(model, plan.adapters)
    shapes = input_shapes(model, inputs)
    chosen = {layer.name: layer for layer in plan.layers}
    reasons = {skip.name: skip.reason for skip in plan.skipped}
    reasons |= {layer.name: layer.note for layer in plan.layers if layer.note}
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
    if plan.method in CODECS:
        kept = countable_cost(layer, shapes)
        fewer = prod(plan.shape) - stored_params([plan], shared=False)
        size = weight_of(layer).element_size()
        return {**kept, "params": kept["params"] - fewer, "bytes": kept["bytes"] - size * fewer}
    with torch.device("meta"):
        return countable_cost(DECOMPOSITIONS[plan.method].chain(layer, plan.ranks), shapes)


def countable_cost(layer: nn.Module, shapes: list[Shape]) -> Json:
    """Parameters, bytes, and MACs where they are known (None: no closed form, or the layer was not seen running)."""
    try:
        macs: int | None = chain_cost(layer, shapes).macs if shapes else None
    except TypeError:
        macs = None
    own = _own(layer)
    params = sum(tensor.numel() for tensor in own if isinstance(tensor, nn.Parameter))
    return {"macs": macs, "params": params, "bytes": bytes_of(own)}


def _own(layer: nn.Module) -> tuple[Tensor, ...]:
    """Parameters and buffers of a layer without those of layers inside it, as in a net with a class token of its own.

    A chain owns none: all in it are its.
    """
    alone = next(layer.parameters(recurse=False), None) is not None
    parts = [layer] if alone else list(layer.modules())
    if alone and isinstance(computed := getattr(layer, "parametrizations", None), nn.ModuleDict):
        parts += computed.modules()
    found = (tensor for part in parts for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)))
    return tuple({id(tensor): tensor for tensor in found}.values())
