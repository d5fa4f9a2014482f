"""CP: a convolution as one small filter a term between two 1x1 convolutions.

The kernel is a sum of r rank-one terms, ``W[t, c, ...] = sum over r of E[t, r] D[r, ...] R[r, c]``. In ``cp3`` D is a
depthwise k x k convolution; in ``cp4`` it is split once more, into a depthwise k x 1 and a depthwise 1 x k. Lebedev et
al. 2014, arXiv 1412.6553 (the four-way form); the fit is the stable one of Phan et al. 2020, see ``cp_als``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from edgecompress.decompositions.base import (
    Factors,
    Support,
    decomposable,
    geometry,
    is_conv,
    is_pointwise,
    is_transposed,
    placement,
    pointwise,
)
from edgecompress.decompositions.cp_als import balanced, error_bounds, exact_rank, path, terms_of
from edgecompress.decompositions.kernels import kernel_shape
from edgecompress.decompositions.projection import Head, Starts, Tail, fit, output_errors, root_and_inverse
from edgecompress.decompositions.spatial_svd import along, two_dimensional
from edgecompress.plans import Ranks

CP_STEPS = 50
"""Refining steps with input moments: terms settle more slowly than the factors of the other forms."""

DAMPING = 1e-4
"""Price of terms that cancel each other: their squared norms add up to 6 times the kernel's at most on ResNet-20 (12
after 100 steps), 3 times at 1e-3, where outputs are worse. Here it stands for the correction of ``cp_als``."""


class _Terms:
    """What both forms share: with input moments ``expand`` is the tail, all before it the head."""

    __slots__ = ()

    def unfoldings(self, _kernel: Tensor) -> tuple[Tensor, ...]:
        """None: the number of terms is no matrix's rank."""
        return ()

    def features(self, rows: Tensor, head: Head) -> Tensor:
        """The inner product of each patch with each term, (n, r)."""
        return rows @ khatri_rao(head).T

    def filters(self, head: Head, _shape: Sequence[int]) -> Tensor:
        """Each term's filter, (r, D)."""
        return khatri_rao(head)

    def nest(self, ranks: Ranks) -> Hashable:
        """Each rank has terms of its own."""
        return ranks

    def tail_rank(self, _ranks: Ranks) -> int | None:
        """One factor follows."""
        return None


@dataclass(frozen=True, slots=True)
class Cp3(_Terms):
    """Ranks ``(r,)``; links ``reduce``, ``depthwise``, ``expand``."""

    name: str = "cp3"
    summary: str = "1x1, depthwise k x k, 1x1: CP with bounded terms; Lebedev et al. 2014, Phan et al. 2020"
    links: tuple[str, ...] = ("reduce", "depthwise", "expand")
    automatic: bool = True
    steps: int = CP_STEPS
    damping: float = DAMPING

    def supports(self, layer: nn.Module) -> Support:
        """Plain convolutions with a kernel larger than one element."""
        support = decomposable(layer)
        if support and (type(layer) is nn.Linear or is_pointwise(layer)):
            return Support("a matrix: its CP form is its SVD, use svd")
        if is_transposed(layer):
            return Support(f"{type(layer).__name__}: svd and tucker2 replace it")
        return support

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The product of outputs, inputs and kernel elements without the largest of the three."""
        outputs, inputs, *taps = kernel_shape(layer)
        return (exact_rank((outputs, inputs, prod(taps))),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce``, ``depthwise``, ``expand``; the bias is the last link's."""
        assert is_conv(layer)
        (rank,), (outputs, inputs, *_) = ranks, kernel_shape(layer)
        terms = layer.groups * rank
        shape = {**geometry(layer), "groups": terms}
        return nn.Sequential(
            OrderedDict(
                reduce=pointwise(layer, inputs, rank, bias=False),
                depthwise=type(layer)(terms, terms, bias=False, **shape, **placement(layer)),
                expand=pointwise(layer, rank, outputs, bias=layer.bias is not None),
            )
        )

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """``(r, C, 1...)``, ``(r, 1, *kernel)``, ``(T, r, 1...)``, each term's norm spread evenly over the three."""
        if moments is not None:
            return _with_balanced_terms(fit(self, kernel.double(), moments, ranks, self.steps), kernel.shape)
        (rank,), ones = ranks, [1] * (kernel.dim() - 2)
        out, into, taps = terms_of(as_three_way(kernel), rank)
        return (
            into.T.reshape(rank, -1, *ones),
            taps.T.reshape(rank, 1, *kernel.shape[2:]),
            out.reshape(-1, rank, *ones),
        )

    def reconstruct(self, factors: Factors) -> Tensor:
        """The sum over the terms."""
        reduce, depthwise, expand = factors
        return torch.einsum("tr,r...,rc->tc...", expand.flatten(1), depthwise[:, 0], reduce.flatten(1))

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """Upper bounds, from coarse fits at a few ranks."""
        if moments is not None:
            return output_errors(self, kernel.double(), moments, candidates)
        return error_bounds(as_three_way(kernel), [rank for (rank,) in candidates])

    def starts(self, kernel: Tensor, moments: Tensor) -> Starts:
        """CP of the kernel in a metric that is separable over its modes, fitted at a few ranks."""
        return _separable_starts(kernel.flatten(2), moments)

    def assembled(self, head: Head, tail: Tail) -> Factors:
        """The links' kernels, their taps flattened."""
        reduce, taps = head
        return reduce[:, :, None], taps[:, None], tail.coefficients[:, :, None]


@dataclass(frozen=True, slots=True)
class Cp4(_Terms):
    """Ranks ``(r,)``; links ``reduce``, ``vertical``, ``horizontal``, ``expand``."""

    name: str = "cp4"
    summary: str = "1x1, depthwise k x 1, depthwise 1 x k, 1x1: CP as cp3; Lebedev et al. 2014, Phan et al. 2020"
    links: tuple[str, ...] = ("reduce", "vertical", "horizontal", "expand")
    automatic: bool = False
    steps: int = CP_STEPS
    damping: float = DAMPING

    def supports(self, layer: nn.Module) -> Support:
        """Plain Conv2d whose kernel is larger than 1 both ways."""
        return two_dimensional(layer)

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The product of outputs, inputs, height and width without the largest of the four."""
        return (exact_rank(kernel_shape(layer)),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce``, ``vertical``, ``horizontal``, ``expand``; the bias is the last link's."""
        assert isinstance(layer, nn.Conv2d)
        (rank,), (outputs, inputs, *_) = ranks, kernel_shape(layer)
        terms = layer.groups * rank
        vertical, horizontal = (
            nn.Conv2d(terms, terms, bias=False, **{**along(layer, axis), "groups": terms}, **placement(layer))
            for axis in (0, 1)
        )
        return nn.Sequential(
            OrderedDict(
                reduce=pointwise(layer, inputs, rank, bias=False),
                vertical=vertical,
                horizontal=horizontal,
                expand=pointwise(layer, rank, outputs, bias=layer.bias is not None),
            )
        )

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """``(r, C, 1, 1)``, ``(r, 1, kh, 1)``, ``(r, 1, 1, kw)``, ``(T, r, 1, 1)``, norms spread evenly as in cp3."""
        if moments is not None:
            return _with_balanced_terms(fit(self, kernel.double(), moments, ranks, self.steps), kernel.shape)
        (rank,) = ranks
        out, into, rows, columns = terms_of(as_four_way(kernel), rank)
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

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """Upper bounds, from coarse fits at a few ranks."""
        if moments is not None:
            return output_errors(self, kernel.double(), moments, candidates)
        return error_bounds(as_four_way(kernel), [rank for (rank,) in candidates])

    def starts(self, kernel: Tensor, moments: Tensor) -> Starts:
        """CP of the kernel in a metric that is separable over its modes, fitted at a few ranks."""
        return _separable_starts(kernel, moments)

    def assembled(self, head: Head, tail: Tail) -> Factors:
        """The links' kernels."""
        reduce, rows, columns = head
        return (
            reduce[:, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None],
            tail.coefficients[:, :, None, None],
        )


def khatri_rao(head: Head) -> Tensor:
    """(r, product of sizes): the outer product of the rows of all factors, each term's filter on a patch."""
    filters, *others = head
    for other in others:
        filters = (filters.unsqueeze(-1) * other.unsqueeze(1)).flatten(1)
    return filters


def _separable_starts(tensor: Tensor, moments: Tensor) -> Starts:
    """Terms of a kernel (T, C, ...) by the input moments of each of its modes, the other modes averaged over."""
    sizes = tensor.shape[1:]
    roots = [root_and_inverse(_mode_moments(moments, sizes, mode)) for mode in range(len(sizes))]
    for mode, (root, _) in enumerate(roots, start=1):
        tensor = torch.tensordot(tensor, root, dims=([mode], [0])).movedim(-1, mode)
    fits = path(tensor, exact_rank(tensor.shape))

    def start(ranks: Ranks) -> Head:
        (rank,) = ranks
        best = min((fit for fit in fits if fit.rank <= rank), key=lambda fit: fit.error(rank))
        _, *terms = balanced(best.extended(rank))
        return tuple(normalize(term.T @ inverse, dim=1) for term, (_, inverse) in zip(terms, roots, strict=True))

    return start


def _mode_moments(moments: Tensor, sizes: Sequence[int], mode: int) -> Tensor:
    """(size, size): the moments of one mode of the patches, averaged over the others, with a mean of 1."""
    before, size, after = prod(sizes[:mode]), sizes[mode], prod(sizes[mode + 1 :])
    blocks = moments.reshape(before, size, after, before, size, after)
    own = torch.einsum("aibajb->ij", blocks)
    return own / own.diagonal().mean()


def _with_balanced_terms(factors: Factors, shape: Sequence[int]) -> Factors:
    """The same kernel, each term's norm spread evenly over its factors; the depthwise taps in the kernel's shape."""
    *head, expand = factors
    terms = balanced((*(factor.flatten(1).T for factor in head), expand.flatten(1)))
    ones = [1] * (len(shape) - 2)
    even = [term.T.reshape(factor.shape) for term, factor in zip(terms, head, strict=False)]
    if len(even) == 2:
        even = [even[0].reshape(*even[0].shape[:2], *ones), even[1].reshape(-1, 1, *shape[2:])]
    return *even, terms[-1].reshape(*expand.shape[:2], *ones)


def as_three_way(weight: Tensor) -> Tensor:
    """(T, C, *kernel) as (T, C, kernel elements) in float64."""
    return as_four_way(weight).flatten(2)


def as_four_way(weight: Tensor) -> Tensor:
    """The kernel itself in float64, laid out alike whatever the memory format of the weight."""
    return weight.double().contiguous()
