"""Truncated SVD of a weight seen as a matrix (outputs x everything else).

Linear: Linear C -> r, Linear r -> T. Convolution: k x k C -> r, which keeps stride, padding and dilation, then
1x1 r -> T, which carries the bias ("channel" form: Denton et al. 2014, arXiv 1404.0736; Zhang et al. 2015,
arXiv 1411.4229). The best approximation of its rank in the Frobenius norm (Eckart & Young 1936).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import (
    Factors,
    Support,
    geometry,
    is_conv,
    kept_energy,
    placement,
    plain_layer,
    pointwise,
    squared_norm,
    thin_svd,
)
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class Svd:
    """Ranks ``(r,)``; links ``reduce`` and ``expand``."""

    name: str = "svd"
    summary: str = "k x k, 1x1 (or two Linears): truncated SVD; Denton et al. 2014, Zhang et al. 2015"
    links: tuple[str, ...] = ("reduce", "expand")

    def supports(self, layer: nn.Module) -> Support:
        """Every plain Linear, Conv1d and Conv2d."""
        return plain_layer(layer)

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The smaller side of the weight as a matrix."""
        weight = layer.weight
        assert isinstance(weight, Tensor)
        return (min(weight.flatten(1).shape),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce`` then ``expand``; the bias is the last link's."""
        (rank,), bias = ranks, layer.bias is not None
        reduce: nn.Module
        expand: nn.Module
        if is_conv(layer):
            reduce = type(layer)(layer.in_channels, rank, bias=False, **geometry(layer), **placement(layer))
            expand = pointwise(layer, rank, layer.out_channels, bias=bias)
        else:
            assert isinstance(layer, nn.Linear)
            reduce = nn.Linear(layer.in_features, rank, bias=False, **placement(layer))
            expand = nn.Linear(rank, layer.out_features, bias=bias, **placement(layer))
        return nn.Sequential(OrderedDict(reduce=reduce, expand=expand))

    def factors(self, weight: Tensor, ranks: Ranks) -> Factors:
        """``(r, C, *kernel)`` and ``(T, r, 1, ...)``, the singular values split evenly between the two."""
        matrix = weight.double().flatten(1)
        left, values, right = thin_svd(matrix)
        (rank,), root = ranks, values.sqrt()
        reduce = (root[:rank, None] * right[:rank]).reshape(rank, *weight.shape[1:])
        expand = (left[:, :rank] * root[:rank]).reshape(-1, rank, *(1 for _ in weight.shape[2:]))
        return reduce, expand

    def reconstruct(self, factors: Factors) -> Tensor:
        """``expand`` times ``reduce``."""
        reduce, expand = factors
        return torch.einsum("tr,r...->t...", expand.flatten(1), reduce)

    def errors(self, weight: Tensor, candidates: Sequence[Ranks]) -> list[float]:
        """The share of the squared singular values that is cut off."""
        matrix = weight.double().flatten(1)
        kept = kept_energy(matrix) / squared_norm(matrix)
        return [max(0.0, 1 - float(kept[rank - 1])) for (rank,) in candidates]
