"""Spatial SVD: a k x k convolution as a vertical k x 1 and a horizontal 1 x k convolution.

The kernel (T, C, kh, kw) is seen as the matrix (C kh) x (T kw) and truncated; the vertical filter takes the
vertical stride, padding and dilation, the horizontal one the horizontal ones and the bias. Jaderberg et al. 2014,
arXiv 1405.3866; Tai et al. 2016, arXiv 1511.06067. Without data it is the best approximation of its rank in the
Frobenius norm.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import (
    Factors,
    Support,
    decomposable,
    is_transposed,
    kept_energy,
    placement,
    squared_norm,
    thin_svd,
)
from edgecompress.decompositions.kernels import kernel_shape
from edgecompress.decompositions.projection import STEPS, Head, Starts, Tail, fit, leading_directions, output_errors
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class SpatialSvd:
    """Ranks ``(r,)``; links ``vertical`` and ``horizontal``."""

    name: str = "spatial_svd"
    summary: str = "k x 1, 1 x k: SVD of the spatial matricisation; Jaderberg et al. 2014, Tai et al. 2016"
    links: tuple[str, ...] = ("vertical", "horizontal")
    automatic: bool = True
    steps: int = STEPS
    damping: float = 0.0

    def supports(self, layer: nn.Module) -> Support:
        """Plain Conv2d whose kernel is larger than 1 both ways."""
        return two_dimensional(layer)

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The smaller side of the (C kh) x (T kw) matrix."""
        outputs, inputs, height, width = kernel_shape(layer)
        return (min(inputs * height, outputs * width),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``vertical`` then ``horizontal``; the bias is the last link's."""
        assert isinstance(layer, nn.Conv2d)
        rank, bias = layer.groups * ranks[0], layer.bias is not None
        vertical = nn.Conv2d(layer.in_channels, rank, bias=False, **along(layer, 0), **placement(layer))
        horizontal = nn.Conv2d(rank, layer.out_channels, bias=bias, **along(layer, 1), **placement(layer))
        return nn.Sequential(OrderedDict(vertical=vertical, horizontal=horizontal))

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """``(r, C, kh, 1)`` and ``(T, r, 1, kw)``, each vertical filter as long as its horizontal ones."""
        if moments is not None:
            return evenly_scaled(*fit(self, kernel.double(), moments, ranks, self.steps))
        outputs, inputs, height, width = kernel.shape
        left, values, right = thin_svd(spatial_matrix(kernel.double()))
        (rank,), root = ranks, values.sqrt()
        vertical = (left[:, :rank] * root[:rank]).T.reshape(rank, inputs, height, 1)
        horizontal = (root[:rank, None] * right[:rank]).reshape(rank, outputs, width).transpose(0, 1).unsqueeze(2)
        return vertical, horizontal

    def reconstruct(self, factors: Factors) -> Tensor:
        """Sum over the rank of vertical times horizontal filters."""
        vertical, horizontal = factors
        return torch.einsum("rci,trj->tcij", vertical[..., 0], horizontal[:, :, 0])

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """The share of the squared singular values that is cut off."""
        if moments is not None:
            return output_errors(self, kernel.double(), moments, candidates)
        matrix = spatial_matrix(kernel.double())
        kept = kept_energy(matrix) / squared_norm(matrix)
        return [max(0.0, 1 - float(kept[rank - 1])) for (rank,) in candidates]

    def unfoldings(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """The spatial matrix."""
        return (spatial_matrix(kernel),)

    # -- with input moments: vertical is the head, horizontal the tail --------------------------------------------

    def starts(self, kernel: Tensor, moments: Tensor) -> Starts:
        """Vertical filters (r, C, kh): principal directions of one column of the patch, averaged over columns."""
        columns = column_moments(moments, kernel.shape[1:])
        vertical = leading_directions(columns, spatial_matrix(kernel)).unflatten(1, kernel.shape[1:3])
        return lambda ranks: (vertical[: ranks[0]],)

    def features(self, rows: Tensor, head: Head) -> Tensor:
        """Each vertical filter on each column: (n, r kw)."""
        (vertical,) = head
        columns = rows.T.reshape(vertical[0].numel(), -1)
        return (vertical.flatten(1) @ columns).reshape(-1, len(rows)).T

    def filters(self, head: Head, shape: Sequence[int]) -> Tensor:
        """(r kw, C kh kw): each vertical filter in each column."""
        (vertical,) = head
        return in_columns(vertical, shape[-1])

    def nest(self, _ranks: Ranks) -> Hashable:
        """All vertical filters are the first ones of more."""
        return ()

    def tail_rank(self, _ranks: Ranks) -> int | None:
        """One factor follows."""
        return None

    def assembled(self, head: Head, tail: Tail) -> Factors:
        """Vertical and horizontal filters."""
        (vertical,) = head
        return vertical.unsqueeze(-1), tail.coefficients.unflatten(1, (len(vertical), 1, -1))


def evenly_scaled(vertical: Tensor, horizontal: Tensor) -> Factors:
    """The same kernel, each vertical filter as long as its horizontal ones together."""
    tiny = torch.finfo(vertical.dtype).tiny
    lengths = vertical.flatten(1).norm(dim=1), horizontal.transpose(0, 1).flatten(1).norm(dim=1)
    scale = (lengths[1].clamp_min(tiny) / lengths[0].clamp_min(tiny)).sqrt()
    return vertical * scale[:, None, None, None], horizontal / scale[None, :, None, None]


def in_columns(vertical: Tensor, width: int) -> Tensor:
    """Vertical filters (r, C, kh) in each column of a patch: (r kw, C kh kw)."""
    placed = torch.einsum("rci,jk->rjcik", vertical, torch.eye(width, dtype=vertical.dtype))
    return placed.flatten(2).flatten(0, 1)


def column_moments(moments: Tensor, shape: Sequence[int]) -> Tensor:
    """The moments (C kh, C kh) of one column of a patch of ``shape`` (C, kh, kw), summed over its columns."""
    channels, height, width = shape
    blocks = moments.reshape(channels, height, width, channels, height, width)
    return torch.einsum("aijbkj->aibk", blocks).reshape(channels * height, channels * height)


def two_dimensional(layer: nn.Module) -> Support:
    """Is this a plain Conv2d whose kernel can be split into a vertical and a horizontal part?"""
    support = decomposable(layer)
    if not support:
        return support
    if is_transposed(layer):
        return Support(f"{type(layer).__name__}: svd and tucker2 replace it")
    if not isinstance(layer, nn.Conv2d) or min(layer.kernel_size) == 1:
        return Support("no kernel with two sides to split: use svd")
    return support


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
        "groups": layer.groups,
        "padding_mode": layer.padding_mode,
    }
