"""Spatial SVD: a k x k convolution as a vertical k x 1 and a horizontal 1 x k convolution.

The kernel (T, C, kh, kw) is seen as the matrix (C kh) x (T kw) and truncated; the vertical filter takes the
vertical stride, padding and dilation, the horizontal one the horizontal ones and the bias. Jaderberg et al. 2014,
arXiv 1405.3866; Tai et al. 2016, arXiv 1511.06067. The best approximation of its rank in the Frobenius norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import (
    Factors,
    Support,
    kept_energy,
    placement,
    plain_layer,
    squared_norm,
    thin_svd,
)
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class SpatialSvd:
    """Ranks ``(r,)``; links ``vertical`` and ``horizontal``."""

    name: str = "spatial_svd"
    summary: str = "k x 1, 1 x k: SVD of the spatial matricisation; Jaderberg et al. 2014, Tai et al. 2016"
    links: tuple[str, ...] = ("vertical", "horizontal")

    def supports(self, layer: nn.Module) -> Support:
        """Plain Conv2d whose kernel is larger than 1 both ways."""
        return two_dimensional(layer)

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The smaller side of the (C kh) x (T kw) matrix."""
        assert isinstance(layer, nn.Conv2d)
        height, width = layer.kernel_size
        return (min(layer.in_channels * height, layer.out_channels * width),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``vertical`` then ``horizontal``; the bias is the last link's."""
        assert isinstance(layer, nn.Conv2d)
        (rank,), bias = ranks, layer.bias is not None
        vertical = nn.Conv2d(layer.in_channels, rank, bias=False, **along(layer, 0), **placement(layer))
        horizontal = nn.Conv2d(rank, layer.out_channels, bias=bias, **along(layer, 1), **placement(layer))
        return nn.Sequential(OrderedDict(vertical=vertical, horizontal=horizontal))

    def factors(self, weight: Tensor, ranks: Ranks) -> Factors:
        """``(r, C, kh, 1)`` and ``(T, r, 1, kw)``, the singular values split evenly between the two."""
        outputs, inputs, height, width = weight.shape
        left, values, right = thin_svd(spatial_matrix(weight.double()))
        (rank,), root = ranks, values.sqrt()
        vertical = (left[:, :rank] * root[:rank]).T.reshape(rank, inputs, height, 1)
        horizontal = (root[:rank, None] * right[:rank]).reshape(rank, outputs, width).transpose(0, 1).unsqueeze(2)
        return vertical, horizontal

    def reconstruct(self, factors: Factors) -> Tensor:
        """Sum over the rank of vertical times horizontal filters."""
        vertical, horizontal = factors
        return torch.einsum("rci,trj->tcij", vertical[..., 0], horizontal[:, :, 0])

    def errors(self, weight: Tensor, candidates: Sequence[Ranks]) -> list[float]:
        """The share of the squared singular values that is cut off."""
        matrix = spatial_matrix(weight.double())
        kept = kept_energy(matrix) / squared_norm(matrix)
        return [max(0.0, 1 - float(kept[rank - 1])) for (rank,) in candidates]


def two_dimensional(layer: nn.Module) -> Support:
    """Is this a plain Conv2d whose kernel can be split into a vertical and a horizontal part?"""
    plain = plain_layer(layer)
    if not plain:
        return plain
    if not isinstance(layer, nn.Conv2d) or min(layer.kernel_size) == 1:
        return Support("no kernel with two sides to split: use svd")
    return plain


def spatial_matrix(weight: Tensor) -> Tensor:
    """A kernel (T, C, kh, kw) as the matrix (C kh) x (T kw)."""
    outputs, inputs, height, width = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(inputs * height, outputs * width)


def along(layer: nn.Conv2d, axis: int) -> dict[str, Any]:
    """The geometry of ``layer`` along one axis, and none along the other."""

    def one_sided(pair: tuple[int, ...], other: int) -> tuple[int, int]:
        return (pair[0], other) if axis == 0 else (other, pair[1])

    padding = layer.padding if isinstance(layer.padding, str) else one_sided(layer.padding, 0)
    return {
        "kernel_size": one_sided(layer.kernel_size, 1),
        "stride": one_sided(layer.stride, 1),
        "padding": padding,
        "dilation": one_sided(layer.dilation, 1),
        "padding_mode": layer.padding_mode,
    }
