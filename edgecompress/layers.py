"""Finding the layers of a model that could be replaced, and saying why the others cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from edgecompress.decompositions.base import decomposable, is_table
from edgecompress.errors import PlanError

WHY_NOT = "why_not_adapted"
"""The attribute of a module that adapters refused: by their names the reasons, in words."""


@dataclass(frozen=True, slots=True)
class Found:
    """A layer with a weight; ``refused`` is empty, or the reason no method may touch it."""

    name: str
    layer: nn.Module
    refused: str = ""


def weighted_layers(model: nn.Module) -> tuple[Found, ...]:
    """Every module that itself owns a weight of two or more dimensions, at every path it is registered under."""
    paths = list(model.named_modules(remove_duplicate=False))
    modules = Counter(id(module) for _, module in paths)
    weights = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    fused = {id(child) for module in model.modules() for child in _read_directly(module)}
    return tuple(
        Found(name, module, _refusal(module, modules, weights, fused))
        for name, module in paths
        if not isinstance(module, parametrize.ParametrizationList)
        if any(p.dim() >= 2 for p in module.parameters(recurse=False)) or parametrize.is_parametrized(module)
    )


def _read_directly(module: nn.Module) -> Iterator[nn.Module]:
    """Layers whose weight a fused implementation of PyTorch reads itself, past their ``forward``."""
    if isinstance(module, nn.TransformerEncoderLayer) and isinstance(module.self_attn, nn.MultiheadAttention):
        yield from (module.linear1, module.linear2)


def _refusal(layer: nn.Module, modules: Counter[int], weights: Counter[int], fused: set[int]) -> str:  # noqa: PLR0911
    """The reason to leave a layer alone, or an empty string."""
    if parametrize.is_parametrized(layer):
        return (
            "parametrized: its weight is computed on every call; torch.nn.utils.parametrize.remove_parametrizations "
            "makes it plain"
        )
    support = decomposable(layer)
    if not support and not is_table(layer):
        return next(iter(vars(layer).get(WHY_NOT, {}).values()), support.reason)
    if modules[id(layer)] > 1:
        return "tied: the same layer is registered under several names"
    if any(weights[id(parameter)] > 1 for parameter in layer.parameters(recurse=False)):
        return "tied: shares its weight with another layer"
    if id(layer) in fused:
        return "nn.TransformerEncoderLayer reads its weight directly in its fast path; a block of nn.Linear does not"
    if "forward" in vars(layer):
        return "its forward was replaced, which a chain would lose"
    if layer._forward_hooks or layer._forward_pre_hooks:
        return f"carries forward hooks, which a chain would lose{_way_out(layer)}"
    return ""


def _way_out(layer: nn.Module) -> str:
    """How to be rid of the hooks of PyTorch's own."""
    known = {"WeightNorm": "remove_weight_norm", "SpectralNorm": "remove_spectral_norm"}
    for hook in layer._forward_pre_hooks.values():
        if type(hook).__module__.startswith("torch.nn.utils."):
            name = known.get(type(hook).__name__, "prune.remove")
            return f"; torch.nn.utils.{name} makes its weight plain"
    return ""


def refuse_unusable(name: str, weight: torch.Tensor) -> None:
    """Refuse a weight that has no decomposition.

    Raises:
        PlanError: it holds NaN or infinity, or nothing but zeros.
    """
    reason = without_numbers_to_fit(name, weight)
    if reason:
        raise PlanError(f"{name}: {reason}; leave it dense, or load trained weights")


def without_numbers_to_fit(name: str, weight: torch.Tensor) -> str:
    """Why a layer of this weight is left dense though it could be replaced, or an empty string.

    Raises:
        PlanError: it holds NaN or infinity.
    """
    ends = torch.stack(torch.aminmax(weight.detach())) if weight.numel() else torch.zeros(2)
    if not bool(torch.isfinite(ends).all()):
        raise PlanError(f"{name}: its weight holds NaN or infinity; train or load the model again")
    return "" if bool(ends.any()) else "its weight is all zeros: there is nothing to decompose"


def put(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    """``model`` with ``layer`` at ``name``; the layer itself where the model is a single layer."""
    if not name:
        return layer
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)
    return model


GEOMETRY = (
    *("in_features", "out_features", "in_channels", "out_channels"),
    *("num_embeddings", "embedding_dim"),
    *("kernel_size", "stride", "padding", "dilation", "groups", "output_padding", "padding_mode"),
)
"""What code around a layer may ask it for, as for a padding that it works out itself."""


def with_geometry(chain: nn.Sequential, layer: nn.Module) -> nn.Sequential:
    """``chain``, which says of itself what ``layer`` does about sizes and strides: the two take and give the same."""
    for name in GEOMETRY:
        if hasattr(layer, name):
            setattr(chain, name, getattr(layer, name))
    return chain


def describe(layer: nn.Module) -> str:
    """Kind and size of a layer in few words, for tables: ``Conv2d 16->32 3x3 /2``."""
    if isinstance(layer, nn.Linear):
        return f"Linear {layer.in_features}->{layer.out_features}"
    if isinstance(layer, nn.Embedding):
        return f"Embedding {layer.num_embeddings}->{layer.embedding_dim}"
    if isinstance(layer, nn.modules.conv._ConvNd):
        kernel, stride = "x".join(map(str, layer.kernel_size)), max(layer.stride)
        groups = f" groups {layer.groups}" if layer.groups > 1 else ""
        return f"{type(layer).__name__} {layer.in_channels}->{layer.out_channels} {kernel}" + (
            f" /{stride}{groups}" if stride > 1 else groups
        )
    return type(layer).__name__
