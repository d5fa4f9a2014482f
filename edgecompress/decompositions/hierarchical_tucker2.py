"""HT-2, hierarchical Tucker-2: 1x1, k x 1, 1 x k, 1x1, all dense convolutions.

A Tucker-2 decomposition whose k x k core is split by a spatial SVD::

    W[t, c, i, j] = sum over r1, m, r3 of U1[c, r1] G1[r1, i, m] G2[m, r3, j] U3[t, r3]

U1 and U3 are the leading left singular vectors of the channel unfoldings of W itself; the projected core, seen as
(r1 kh) x (r3 kw), is truncated at rank m. Gabor & Zdunek, Applied Soft Computing 132 (2023) 109856, after their
published code (mateuszgabor/ht2); its ranks here are in weight order, (r3, m, r1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from edgecompress.decompositions.base import (
    Factors,
    Support,
    kept_energy,
    placement,
    pointwise,
    thin_svd,
)
from edgecompress.decompositions.kernels import kernel_shape
from edgecompress.decompositions.projection import (
    STEPS,
    Head,
    Starts,
    Tail,
    fit,
    leading_directions,
    output_errors,
    solved,
)
from edgecompress.decompositions.spatial_svd import (
    along,
    column_moments,
    evenly_scaled,
    in_columns,
    spatial_matrix,
    two_dimensional,
)
from edgecompress.decompositions.tucker2 import basis, project_in, project_out, reducing
from edgecompress.plans import Ranks

EXACT_SIDE = 256
"""Above it a spectrum for each pair of ends takes minutes a network."""


@dataclass(frozen=True, slots=True)
class HierarchicalTucker2:
    """Ranks ``(rank_out, rank_middle, rank_in)``; links ``reduce``, ``vertical``, ``horizontal``, ``expand``."""

    name: str = "hierarchical_tucker2"
    summary: str = "1x1, k x 1, 1 x k, 1x1: HT-2; Gabor & Zdunek 2023"
    links: tuple[str, ...] = ("reduce", "vertical", "horizontal", "expand")
    automatic: bool = True
    steps: int = STEPS
    damping: float = 0.0

    def supports(self, layer: nn.Module) -> Support:
        """Plain Conv2d whose kernel is larger than 1 both ways."""
        return two_dimensional(layer)

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The ranks of the three matricisations, at most."""
        outputs, inputs, height, width = kernel_shape(layer)
        rank_out, rank_in = min(outputs, inputs * height * width), min(inputs, outputs * height * width)
        return rank_out, min(rank_in * height, rank_out * width), rank_in

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """The four convolutions; the bias is the last link's."""
        assert isinstance(layer, nn.Conv2d)
        (rank_out, _, rank_in), (outputs, inputs, *_) = ranks, kernel_shape(layer)
        wide_out, wide_middle, wide_in = (layer.groups * rank for rank in ranks)
        return nn.Sequential(
            OrderedDict(
                reduce=pointwise(layer, inputs, rank_in, bias=False),
                vertical=nn.Conv2d(wide_in, wide_middle, bias=False, **along(layer, 0), **placement(layer)),
                horizontal=nn.Conv2d(wide_middle, wide_out, bias=False, **along(layer, 1), **placement(layer)),
                expand=pointwise(layer, rank_out, outputs, bias=layer.bias is not None),
            )
        )

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """``(r1, C, 1, 1)``, ``(m, r1, kh, 1)``, ``(r3, m, 1, kw)``, ``(T, r3, 1, 1)`` with orthonormal ends.

        A middle rank beyond what the two ends allow is filled with zeros.
        """
        if moments is not None:
            return _filled_up(_settled(fit(self, kernel.double(), moments, ranks, self.steps)), ranks[1])
        (rank_out, middle, rank_in), (height, width) = ranks, kernel.shape[2:]
        tensor = kernel.double().flatten(2)
        out, into = basis(tensor, 0)[:, :rank_out], basis(tensor, 1)[:, :rank_in]
        core = project_out(project_in(tensor, into), out).reshape(rank_out, rank_in, height, width)
        left, values, right = thin_svd(spatial_matrix(core))
        kept = min(middle, len(values))
        root = values[:kept].sqrt()
        first = pad((left[:, :kept] * root).T, (0, 0, 0, middle - kept))
        second = pad(root[:, None] * right[:kept], (0, 0, 0, middle - kept))
        return (
            into.T[:, :, None, None],
            first.reshape(middle, rank_in, height, 1),
            second.reshape(middle, rank_out, width).transpose(0, 1).unsqueeze(2),
            out[:, :, None, None],
        )

    def reconstruct(self, factors: Factors) -> Tensor:
        """The sum in the module's docstring."""
        reduce, vertical, horizontal, expand = factors
        core = torch.einsum("mai,bmj->baij", vertical[..., 0], horizontal[:, :, 0])
        return torch.einsum("tb,baij,ac->tcij", expand.flatten(1), core, reduce.flatten(1))

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """Exact for small kernels; for large ones the two ends' error plus that of the middle rank alone.

        The middle matrix of a truncated core is a part of the whole core's, so the energy its rank cuts off is at
        most the whole core's.
        """
        if moments is not None:
            return output_errors(self, kernel.double(), moments, candidates)
        tensor = kernel.double().flatten(2)
        core = project_out(project_in(tensor, basis(tensor, 1)), basis(tensor, 0)).reshape(kernel.shape)
        exact = min(spatial_matrix(core).shape) <= EXACT_SIDE
        cut = _cut_exactly if exact else _cut_at_most
        return [max(0.0, error) for error in cut(core / core.norm(), candidates)]

    def unfoldings(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """The output mode, the (C kh) x (T kw) matrix, the input mode: the three of the paper."""
        return kernel.flatten(1), spatial_matrix(kernel), kernel.transpose(0, 1).flatten(1)

    # -- with input moments: reduce and vertical are the head, horizontal and expand the tail ---------------------

    def starts(self, kernel: Tensor, moments: Tensor) -> Starts:
        """``reduce`` (r1, C) as for Tucker-2, then ``vertical`` (m, r1, kh) as for spatial SVD of what it leaves."""
        every = reducing(kernel.flatten(2), moments)
        filters: dict[int, Tensor] = {}

        def start(ranks: Ranks) -> Head:
            reduce = every[: ranks[2]]
            if ranks[2] not in filters:
                filters[ranks[2]] = _vertical(kernel, moments, reduce)
            return reduce, filters[ranks[2]][: ranks[1]]

        return start

    def features(self, rows: Tensor, head: Head) -> Tensor:
        """Each vertical filter on each column of the reduced channels: (n, m kw)."""
        reduce, vertical = head
        patches = rows.unflatten(1, (reduce.shape[1], vertical.shape[2], -1))
        reduced = torch.einsum("ncij,ac->naij", patches, reduce)
        return torch.einsum("naij,mai->nmj", reduced, vertical).flatten(1)

    def filters(self, head: Head, shape: Sequence[int]) -> Tensor:
        """(m kw, C kh kw): each vertical filter on the reduced channels, in each column."""
        reduce, vertical = head
        return in_columns(torch.einsum("mai,ac->mci", vertical, reduce), shape[-1])

    def nest(self, ranks: Ranks) -> Hashable:
        """Vertical filters on the same reduced channels are the first ones of more."""
        return ranks[2]

    def tail_rank(self, ranks: Ranks) -> int | None:
        """``horizontal`` and ``expand`` meet in ``rank_out``."""
        return ranks[0]

    def assembled(self, head: Head, tail: Tail) -> Factors:
        """The four factors."""
        assert tail.basis is not None
        reduce, vertical = head
        horizontal = tail.coefficients.unflatten(1, (len(vertical), 1, -1))
        return reduce[:, :, None, None], vertical.unsqueeze(-1), horizontal, tail.basis[:, :, None, None]


def _vertical(kernel: Tensor, moments: Tensor, reduce: Tensor) -> Tensor:
    """(r1 kh, r1, kh): the vertical filters of a spatial SVD of the kernel on reduced channels, the best first."""
    shape = kernel.shape
    left = torch.einsum("ncij,ac->naij", moments.unflatten(1, shape[1:]), reduce).flatten(1)
    reduced = torch.einsum("cijn,ac->aijn", left.unflatten(0, shape[1:]), reduce).flatten(0, 2)
    inner = (len(reduce), *shape[2:])
    target = solved(reduced, kernel.flatten(1) @ left).unflatten(1, inner)
    directions = leading_directions(column_moments(reduced, inner), spatial_matrix(target))
    return directions.reshape(-1, *inner[:2])


def _settled(factors: Factors) -> Factors:
    """The same kernel with orthonormal ``reduce``, each vertical filter as long as its horizontal ones."""
    reduce, vertical, horizontal, expand = factors
    rows, mixing = torch.linalg.qr(reduce.flatten(1).T)
    vertical = torch.einsum("maik,ba->mbik", vertical, mixing)
    return rows.T[:, :, None, None], *evenly_scaled(vertical, horizontal), expand


def _filled_up(factors: Factors, middle: int) -> Factors:
    """The same kernel with ``middle`` vertical filters, those that are missing all zeros."""
    reduce, vertical, horizontal, expand = factors
    missing = middle - len(vertical)
    return reduce, pad(vertical, (0, 0, 0, 0, 0, 0, 0, missing)), pad(horizontal, (0, 0, 0, 0, 0, missing)), expand


def _cut_exactly(core: Tensor, candidates: Sequence[Ranks]) -> list[float]:
    """The energy outside of what each candidate keeps of a core of norm 1."""
    blocks = {(out, into) for out, _, into in candidates}
    kept = {(out, into): kept_energy(spatial_matrix(core[:out, :into])) for out, into in blocks}
    return [1 - float(kept[out, into][min(m, len(kept[out, into])) - 1]) for out, m, into in candidates]


def _cut_at_most(core: Tensor, candidates: Sequence[Ranks]) -> list[float]:
    """An upper bound of the same from one spectrum."""
    ends = core.pow(2).sum((2, 3)).cumsum(0).cumsum(1)
    middle = kept_energy(spatial_matrix(core))
    return [
        min(1.0, 2 - float(ends[out - 1, into - 1]) - float(middle[min(m, len(middle)) - 1]))
        for out, m, into in candidates
    ]
