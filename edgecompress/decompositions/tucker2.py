"""Tucker-2: the two channel modes of a kernel are compressed, its k x k core keeps the geometry.

1x1 C -> r_in, k x k r_in -> r_out (stride, padding, dilation), 1x1 r_out -> T (bias). Kim et al. 2016, arXiv
1511.06530. HOSVD by ``eigh`` of the two Gram matrices (De Lathauwer et al. 2000), then HOOI sweeps. The
tensor-train form of a k x k convolution with tied ranks has the same chain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import (
    Factors,
    Support,
    decomposable,
    is_conv,
    is_pointwise,
    leading_eigenvectors,
    pointwise,
    squared_norm,
    thinner,
)
from edgecompress.decompositions.kernels import kernel_shape
from edgecompress.decompositions.projection import STEPS, Head, Starts, Tail, fit, leading_directions, output_errors
from edgecompress.plans import Ranks

GAIN = 1e-4
"""A sweep that keeps less than this share of energy more is the last, as usual."""


@dataclass(frozen=True, slots=True)
class Tucker2:
    """Ranks ``(rank_out, rank_in)`` in weight order; links ``reduce``, ``core``, ``expand``."""

    sweeps: int = 4
    name: str = "tucker2"
    summary: str = "1x1, k x k, 1x1: HOSVD and HOOI of the channel modes; Kim et al. 2016"
    links: tuple[str, ...] = ("reduce", "core", "expand")
    automatic: bool = True
    steps: int = STEPS
    damping: float = 0.0

    def supports(self, layer: nn.Module) -> Support:
        """Plain convolutions with a kernel larger than one element."""
        support = decomposable(layer)
        if support and (type(layer) is nn.Linear or is_pointwise(layer)):
            return Support("a matrix: its Tucker-2 form is its SVD, use svd")
        return support

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The ranks of the two channel unfoldings, at most."""
        outputs, inputs, *taps = kernel_shape(layer)
        return min(outputs, inputs * prod(taps)), min(inputs, outputs * prod(taps))

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce``, ``core``, ``expand``; the bias is the last link's."""
        assert is_conv(layer)
        (rank_out, rank_in), (outputs, inputs, *_) = ranks, kernel_shape(layer)
        return nn.Sequential(
            OrderedDict(
                reduce=pointwise(layer, inputs, rank_in, bias=False),
                core=thinner(layer, rank_in, rank_out),
                expand=pointwise(layer, rank_out, outputs, bias=layer.bias is not None),
            )
        )

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """``(r_in, C, 1...)``, ``(r_out, r_in, *taps)``, ``(T, r_out, 1...)`` with orthonormal ends."""
        if moments is None:
            tensor = kernel.double().flatten(2)
            out, into = self._bases(kernel.flatten(2).to(torch.promote_types(kernel.dtype, torch.float32)), ranks)
            reduce, core, expand = into.T, project_out(project_in(tensor, into), out), out
        else:
            reduce, core, expand = _orthonormal(fit(self, kernel, moments, ranks, self.steps))
        ones = [1] * (kernel.dim() - 2)
        return (
            reduce.reshape(*reduce.shape[:2], *ones),
            core.reshape(*core.shape[:2], *kernel.shape[2:]),
            expand.reshape(*expand.shape[:2], *ones),
        )

    def _bases(self, tensor: Tensor, ranks: Ranks) -> tuple[Tensor, Tensor]:
        """Orthonormal columns (T, r_out) and (C, r_in), float64: HOSVD, then HOOI until a sweep gains hardly anything.

        In the precision of the kernel (T, C, K): a weight in float32 knows no more.
        """
        rank_out, rank_in = ranks
        out, into = (basis(tensor, mode)[:, :rank] for mode, rank in ((0, rank_out), (1, rank_in)))
        kept = 0.0
        for _ in range(self.sweeps):
            out = basis(project_in(tensor, into), 0)[:, :rank_out]
            rest = project_out(tensor, out)
            into = basis(rest, 1)[:, :rank_in]
            before, kept = kept, squared_norm(project_in(rest, into))
            if kept - before <= GAIN * kept:
                break
        return torch.linalg.qr(out.double())[0], torch.linalg.qr(into.double())[0]

    def reconstruct(self, factors: Factors) -> Tensor:
        """Mode products of the core with both ends."""
        reduce, core, expand = factors
        left, right = expand.flatten(1), reduce.flatten(1)
        return torch.einsum("to,oi...,ic->tc...", left, core, right)

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """Exact for the truncated HOSVD, all ranks at once: the energy of a leading block of the full core."""
        if moments is not None:
            return output_errors(self, kernel, moments, candidates)
        tensor = kernel.double().flatten(2)
        core = project_out(project_in(tensor, basis(tensor, 1)), basis(tensor, 0))
        kept = core.pow(2).sum(2).cumsum(0).cumsum(1) / squared_norm(tensor)
        return [max(0.0, 1 - float(kept[rank_out - 1, rank_in - 1])) for rank_out, rank_in in candidates]

    def unfoldings(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """The unfoldings of the two channel modes."""
        return kernel.flatten(1), kernel.transpose(0, 1).flatten(1)

    # -- with input moments: reduce is the head, core and expand the tail -----------------------------------------

    def starts(self, kernel: Tensor, moments: Tensor) -> Starts:
        """``reduce`` (r_in, C): principal directions of one tap's channels, averaged over taps."""
        reduce = reducing(kernel.flatten(2), moments)
        return lambda ranks: (reduce[: ranks[1]],)

    def features(self, rows: Tensor, head: Head) -> Tensor:
        """The reduced channels of each tap: (n, r_in K)."""
        (reduce,) = head
        return (reduce @ rows.T.reshape(reduce.shape[1], -1)).reshape(-1, len(rows)).T

    def filters(self, head: Head, shape: Sequence[int]) -> Tensor:
        """(r_in K, C K): each reducing filter at each tap."""
        (reduce,) = head
        placed = torch.einsum("rc,kl->rkcl", reduce, torch.eye(prod(shape[1:]), dtype=reduce.dtype))
        return placed.flatten(2).flatten(0, 1)

    def nest(self, _ranks: Ranks) -> Hashable:
        """All reducing filters are the first ones of more."""
        return ()

    def tail_rank(self, ranks: Ranks) -> int | None:
        """``core`` and ``expand`` meet in ``rank_out``."""
        return ranks[0]

    def assembled(self, head: Head, tail: Tail) -> Factors:
        """The three factors of a kernel (T, C, K)."""
        assert tail.basis is not None
        return head[0], tail.coefficients.unflatten(1, (len(head[0]), -1)), tail.basis


def reducing(tensor: Tensor, moments: Tensor) -> Tensor:
    """(C, C): principal directions of the channels of a kernel (T, C, K), averaged over taps."""
    channels, taps = tensor.shape[1:]
    over_taps = torch.einsum("akbk->ab", moments.reshape(channels, taps, channels, taps))
    return leading_directions(over_taps, tensor.transpose(0, 1).flatten(1))


def _orthonormal(factors: Factors) -> Factors:
    """The same kernel with orthonormal rows of ``reduce``; ``expand`` has orthonormal columns already."""
    reduce, core, expand = factors
    rows, mixing = torch.linalg.qr(reduce.T)
    return rows.T, torch.einsum("oik,ji->ojk", core, mixing), expand


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
