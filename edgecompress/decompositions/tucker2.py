"""Tucker-2: the two channel modes of a kernel are compressed, its k x k core keeps the geometry.

1x1 C -> r_in, k x k r_in -> r_out (stride, padding, dilation), 1x1 r_out -> T (bias). Kim et al. 2016, arXiv
1511.06530. HOSVD by ``eigh`` of the two Gram matrices (De Lathauwer et al. 2000), then HOOI sweeps. The
tensor-train form of a k x k convolution with tied ranks has the same chain.
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
    leading_eigenvectors,
    placement,
    plain_layer,
    pointwise,
    squared_norm,
)
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class Tucker2:
    """Ranks ``(rank_out, rank_in)`` in weight order; links ``reduce``, ``core``, ``expand``."""

    sweeps: int = 2
    name: str = "tucker2"
    summary: str = "1x1, k x k, 1x1: HOSVD and HOOI of the channel modes; Kim et al. 2016"
    links: tuple[str, ...] = ("reduce", "core", "expand")

    def supports(self, layer: nn.Module) -> Support:
        """Plain convolutions with a kernel larger than one element."""
        plain = plain_layer(layer)
        if plain and (type(layer) is nn.Linear or is_pointwise(layer)):
            return Support("a matrix: its Tucker-2 form is its SVD, use svd")
        return plain

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The ranks of the two channel unfoldings, at most."""
        assert is_conv(layer)
        taps = prod(layer.kernel_size)
        return min(layer.out_channels, layer.in_channels * taps), min(layer.in_channels, layer.out_channels * taps)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce``, ``core``, ``expand``; the bias is the last link's."""
        assert is_conv(layer)
        rank_out, rank_in = ranks
        core = type(layer)(rank_in, rank_out, bias=False, **geometry(layer), **placement(layer))
        return nn.Sequential(
            OrderedDict(
                reduce=pointwise(layer, layer.in_channels, rank_in, bias=False),
                core=core,
                expand=pointwise(layer, rank_out, layer.out_channels, bias=layer.bias is not None),
            )
        )

    def factors(self, weight: Tensor, ranks: Ranks) -> Factors:
        """``(r_in, C, 1...)``, ``(r_out, r_in, *kernel)``, ``(T, r_out, 1...)`` with orthonormal ends."""
        tensor = weight.double().flatten(2)
        rank_out, rank_in = ranks
        out, into = (basis(tensor, mode)[:, :rank] for mode, rank in ((0, rank_out), (1, rank_in)))
        for _ in range(self.sweeps):
            out = basis(project_in(tensor, into), 0)[:, :rank_out]
            into = basis(project_out(tensor, out), 1)[:, :rank_in]
        core = project_out(project_in(tensor, into), out)
        ones = [1] * (weight.dim() - 2)
        return (
            into.T.reshape(rank_in, -1, *ones),
            core.reshape(rank_out, rank_in, *weight.shape[2:]),
            out.reshape(-1, rank_out, *ones),
        )

    def reconstruct(self, factors: Factors) -> Tensor:
        """Mode products of the core with both ends."""
        reduce, core, expand = factors
        left, right = expand.flatten(1), reduce.flatten(1)
        return torch.einsum("to,oi...,ic->tc...", left, core, right)

    def errors(self, weight: Tensor, candidates: Sequence[Ranks]) -> list[float]:
        """Exact for the truncated HOSVD, all ranks at once: the energy of a leading block of the full core."""
        tensor = weight.double().flatten(2)
        core = project_out(project_in(tensor, basis(tensor, 1)), basis(tensor, 0))
        kept = core.pow(2).sum(2).cumsum(0).cumsum(1) / squared_norm(tensor)
        return [max(0.0, 1 - float(kept[rank_out - 1, rank_in - 1])) for rank_out, rank_in in candidates]


def basis(tensor: Tensor, mode: int) -> Tensor:
    """Left singular vectors (columns, descending) of the unfolding along ``mode`` of a 3-way tensor."""
    unfolded = tensor.transpose(0, mode).flatten(1)
    return leading_eigenvectors(unfolded @ unfolded.T)[1]


def project_in(tensor: Tensor, into: Tensor) -> Tensor:
    """(T, C, K) times (C, r) along the input mode: (T, r, K)."""
    return torch.einsum("tck,cr->trk", tensor, into)


def project_out(tensor: Tensor, out: Tensor) -> Tensor:
    """(T, C, K) times (T, r) along the output mode: (r, C, K)."""
    return torch.einsum("tck,tr->rck", tensor, out)
