"""CP: a convolution as one small filter a term between two 1x1 convolutions.

The kernel is a sum of r rank-one terms, ``W[t, c, ...] = sum over r of E[t, r] D[r, ...] R[r, c]``. In ``cp3`` D is a
depthwise k x k convolution; in ``cp4`` it is split once more, into a depthwise k x 1 and a depthwise 1 x k. Lebedev et
al. 2014, arXiv 1412.6553 (the four-way form); the fit is the stable one of Phan et al. 2020, see ``polyadic``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import (
    Factors,
    Support,
    geometry,
    is_conv,
    is_pointwise,
    placement,
    plain_layer,
    pointwise,
)
from edgecompress.decompositions.polyadic import error_bounds, exact_rank, terms_of
from edgecompress.decompositions.spatial_svd import along, two_dimensional
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class Cp3:
    """Ranks ``(r,)``; links ``reduce``, ``depthwise``, ``expand``."""

    name: str = "cp3"
    summary: str = "1x1, depthwise k x k, 1x1: CP with bounded terms; Lebedev et al. 2014, Phan et al. 2020"
    links: tuple[str, ...] = ("reduce", "depthwise", "expand")

    def supports(self, layer: nn.Module) -> Support:
        """Plain convolutions with a kernel larger than one element."""
        plain = plain_layer(layer)
        if plain and (type(layer) is nn.Linear or is_pointwise(layer)):
            return Support("a matrix: its CP form is its SVD, use svd")
        return plain

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The product of outputs, inputs and kernel elements without the largest of the three."""
        assert is_conv(layer)
        return (exact_rank((layer.out_channels, layer.in_channels, prod(layer.kernel_size))),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce``, ``depthwise``, ``expand``; the bias is the last link's."""
        assert is_conv(layer)
        (rank,) = ranks
        depthwise = type(layer)(rank, rank, groups=rank, bias=False, **geometry(layer), **placement(layer))
        return nn.Sequential(
            OrderedDict(
                reduce=pointwise(layer, layer.in_channels, rank, bias=False),
                depthwise=depthwise,
                expand=pointwise(layer, rank, layer.out_channels, bias=layer.bias is not None),
            )
        )

    def factors(self, weight: Tensor, ranks: Ranks) -> Factors:
        """``(r, C, 1...)``, ``(r, 1, *kernel)``, ``(T, r, 1...)``, each term's norm spread evenly over the three."""
        (rank,), ones = ranks, [1] * (weight.dim() - 2)
        out, into, taps = terms_of(as_three_way(weight), rank)
        return (
            into.T.reshape(rank, -1, *ones),
            taps.T.reshape(rank, 1, *weight.shape[2:]),
            out.reshape(-1, rank, *ones),
        )

    def reconstruct(self, factors: Factors) -> Tensor:
        """The sum over the terms."""
        reduce, depthwise, expand = factors
        return torch.einsum("tr,r...,rc->tc...", expand.flatten(1), depthwise[:, 0], reduce.flatten(1))

    def errors(self, weight: Tensor, candidates: Sequence[Ranks]) -> list[float]:
        """Upper bounds, from coarse fits at a few ranks."""
        return error_bounds(as_three_way(weight), [rank for (rank,) in candidates])


@dataclass(frozen=True, slots=True)
class Cp4:
    """Ranks ``(r,)``; links ``reduce``, ``vertical``, ``horizontal``, ``expand``."""

    name: str = "cp4"
    summary: str = "1x1, depthwise k x 1, depthwise 1 x k, 1x1: CP as cp3; Lebedev et al. 2014, Phan et al. 2020"
    links: tuple[str, ...] = ("reduce", "vertical", "horizontal", "expand")

    def supports(self, layer: nn.Module) -> Support:
        """Plain Conv2d whose kernel is larger than 1 both ways."""
        return two_dimensional(layer)

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The product of outputs, inputs, height and width without the largest of the four."""
        assert isinstance(layer, nn.Conv2d)
        return (exact_rank((layer.out_channels, layer.in_channels, *layer.kernel_size)),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce``, ``vertical``, ``horizontal``, ``expand``; the bias is the last link's."""
        assert isinstance(layer, nn.Conv2d)
        (rank,) = ranks
        vertical, horizontal = (
            nn.Conv2d(rank, rank, groups=rank, bias=False, **along(layer, axis), **placement(layer)) for axis in (0, 1)
        )
        return nn.Sequential(
            OrderedDict(
                reduce=pointwise(layer, layer.in_channels, rank, bias=False),
                vertical=vertical,
                horizontal=horizontal,
                expand=pointwise(layer, rank, layer.out_channels, bias=layer.bias is not None),
            )
        )

    def factors(self, weight: Tensor, ranks: Ranks) -> Factors:
        """``(r, C, 1, 1)``, ``(r, 1, kh, 1)``, ``(r, 1, 1, kw)``, ``(T, r, 1, 1)``, norms spread evenly as in cp3."""
        (rank,) = ranks
        out, into, rows, columns = terms_of(as_four_way(weight), rank)
        return (
            into.T[:, :, None, None],
            rows.T[:, None, :, None],
            columns.T[:, None, None, :],
            out[:, :, None, None],
        )

    def reconstruct(self, factors: Factors) -> Tensor:
        """The sum over the terms."""
        reduce, vertical, horizontal, expand = (factor.flatten(1) for factor in factors)
        return torch.einsum("tr,rc,ri,rj->tcij", expand, reduce, vertical, horizontal)

    def errors(self, weight: Tensor, candidates: Sequence[Ranks]) -> list[float]:
        """Upper bounds, from coarse fits at a few ranks."""
        return error_bounds(as_four_way(weight), [rank for (rank,) in candidates])


def as_three_way(weight: Tensor) -> Tensor:
    """(T, C, *kernel) as (T, C, kernel elements) in float64."""
    return as_four_way(weight).flatten(2)


def as_four_way(weight: Tensor) -> Tensor:
    """The kernel itself in float64, laid out alike whatever the memory format of the weight."""
    return weight.double().contiguous()
