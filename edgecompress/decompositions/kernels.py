"""Kernels: the weight of each group of a layer as (T, C, *taps), whatever PyTorch's layout of the layer.

Linear and convolutions hold (out, in / groups, *taps), the groups one after another in ``out``; transposed
convolutions hold (in, out / groups, *taps), the groups one after another in ``in``.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgecompress.decompositions.base import is_table, is_transposed


def groups_of(layer: nn.Module) -> int:
    """The number of groups of a convolution; 1 for anything else."""
    return layer.groups if isinstance(layer, nn.modules.conv._ConvNd) else 1


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer, in PyTorch's layout and with gradients."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def kernels(layer: nn.Module, groups: int | None = None) -> Tensor:
    """(groups, T, C, *taps) of a layer, or of a link in the chain that stands for a layer of so many groups."""
    if is_table(layer):
        return weight_of(layer).detach().T[None]
    grouped: Tensor = weight_of(layer).detach().unflatten(0, (groups or groups_of(layer), -1))
    return grouped.transpose(1, 2) if is_transposed(layer) else grouped


def weight_from(layer: nn.Module, stacked: Tensor) -> Tensor:
    """The inverse of :func:`kernels`: the weight of ``layer`` in PyTorch's layout."""
    if is_table(layer):
        return stacked[0].T
    return (stacked.transpose(1, 2) if is_transposed(layer) else stacked).flatten(0, 1)


def kernel_shape(layer: nn.Module) -> tuple[int, ...]:
    """(T, C, *taps) of one group; works on the meta device."""
    return tuple(kernels(layer).shape[1:])
