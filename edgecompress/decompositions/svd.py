"""Truncated SVD of a weight seen as a matrix (outputs x everything else).

Linear: Linear C -> r, Linear r -> T. Embedding: Embedding V -> r, Linear r -> T.
Convolution: k x k C -> r, which keeps stride, padding and dilation, then
1x1 r -> T, which carries the bias ("channel" form: Denton et al. 2014, arXiv 1404.0736; Zhang et al. 2015,
arXiv 1411.4229). The best approximation of its rank in the Frobenius norm (Eckart & Young 1936).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import (
    MOST_EIGENVECTORS,
    SUPPORTED,
    Factors,
    Support,
    decomposable,
    is_conv,
    is_table,
    kept_energy,
    most_eigenvectors,
    placement,
    pointwise,
    squared_norm,
    thin_svd,
    thinner,
)
from edgecompress.decompositions.kernels import kernel_shape
from edgecompress.decompositions.projection import root_and_inverse
from edgecompress.decompositions.sketch import WIDE, Sketch
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class Svd:
    """Ranks ``(r,)``; links ``reduce`` and ``expand``."""

    name: str = "svd"
    summary: str = "k x k, 1x1 (or two Linears): truncated SVD; Denton et al. 2014, Zhang et al. 2015"
    links: tuple[str, ...] = ("reduce", "expand")
    automatic: bool = True

    def supports(self, layer: nn.Module) -> Support:
        """Every plain Linear and convolution, transposed ones too, and embeddings."""
        return SUPPORTED if is_table(layer) else decomposable(layer)

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The smaller side of the kernel as a matrix."""
        outputs, *rest = kernel_shape(layer)
        return (min(outputs, prod(rest)),)

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce`` then ``expand``; the bias is the last link's."""
        (rank,), (outputs, inputs, *_) = ranks, kernel_shape(layer)
        bias = getattr(layer, "bias", None) is not None
        reduce: nn.Module
        expand: nn.Module
        if is_conv(layer):
            reduce = thinner(layer, inputs, rank)
            expand = pointwise(layer, rank, outputs, bias=bias)
        else:
            kind = partial(nn.Embedding, padding_idx=layer.padding_idx) if isinstance(layer, nn.Embedding) else _plain
            reduce = kind(inputs, rank, **placement(layer))
            expand = nn.Linear(rank, outputs, bias=bias, **placement(layer))
        return nn.Sequential(OrderedDict(reduce=reduce, expand=expand))

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """``(r, C, *taps)`` and ``(T, r, 1, ...)``, evenly scaled.

        With moments: ``expand`` spans the principal components of the outputs, the best rank-r answer in their
        metric (whitened SVD; Yu & Wu 2023, SVD-LLM 2025, BALF arXiv 2509.25136).
        """
        (rank,) = ranks
        if moments is None:
            matrix = kernel.double().flatten(1)
            left, values, right = thin_svd(matrix)
            root = values[:rank].sqrt()
            left, right = left[:, :rank] * root, root[:, None] * right[:rank]
        else:
            known = Principal(kernel, moments)
            basis = known.basis_of(rank).to(known.matrix.dtype)
            left, right = evenly_scaled(basis, basis.T @ known.matrix)
        return right.reshape(rank, *kernel.shape[1:]), left.reshape(-1, rank, *(1 for _ in kernel.shape[2:]))

    def reconstruct(self, factors: Factors) -> Tensor:
        """``expand`` times ``reduce``."""
        reduce, expand = factors
        return torch.einsum("tr,r...->t...", expand.flatten(1), reduce)

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """The share of the squared singular values that is cut off, exactly."""
        if moments is not None:
            return Principal(kernel, moments).errors(candidates)
        matrix = kernel.double().flatten(1)
        kept = kept_energy(matrix) / squared_norm(matrix)
        return [max(0.0, 1 - float(kept[rank - 1])) for (rank,) in candidates]

    def problem(self, kernel: Tensor, moments: Tensor, target: Tensor | None = None) -> Principal:
        """All ranks share one spectrum."""
        return Principal(kernel, moments, target)

    def unfoldings(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """The matrix itself."""
        return (kernel.flatten(1),)


def _plain(inputs: int, rank: int, **where: Any) -> nn.Module:
    return nn.Linear(inputs, rank, bias=False, **where)


class Principal:
    """The principal components of a kernel's outputs: the best answer of every rank, from one spectrum."""

    def __init__(self, kernel: Tensor, moments: Tensor | Sketch, target: Tensor | None = None) -> None:
        self.moments, self.matrix, self.target = moments, kernel.to(moments.dtype).flatten(1), target

    @property
    def basis(self) -> Tensor:
        """(T, k): the components as columns, the largest first; of very many outputs only a part of them."""
        return self._spectrum[1]

    def errors(self, candidates: Sequence[Ranks]) -> list[float]:
        """The share of the squared outputs that is cut off: exact, or a bound beyond the components."""
        values, _, total = self._spectrum
        energy, most = values.cumsum(0) / total, min(self.matrix.shape)
        left = max(0.0, 1 - float(energy[-1])) / max(1, most - len(energy))
        beyond = (max(0, rank - len(energy)) * left for (rank,) in candidates)
        kept = (float(energy[min(rank, len(energy)) - 1]) for (rank,) in candidates)
        return [max(0.0, 1 - own - more) for own, more in zip(kept, beyond, strict=True)]

    def reached(self, ranks: Ranks, _steps: int) -> Tensor:
        """(T, D): what is left of the matrix at a rank."""
        kept = self.basis_of(ranks[0]).to(self.matrix.dtype)
        return kept @ (kept.T @ self.matrix)

    def basis_of(self, rank: int) -> Tensor:
        """(T, rank): the leading components as columns."""
        outputs, inputs = self.matrix.shape
        alone = MOST_EIGENVECTORS < outputs <= inputs and "_spectrum" not in self.__dict__
        if not alone and rank <= self.basis.shape[1]:
            return self.basis[:, :rank]
        second = self._outputs
        if len(second) > MOST_EIGENVECTORS:
            del self.__dict__["_outputs"]
        return most_eigenvectors(second, rank)[1][:, :rank]

    @cached_property
    def _outputs(self) -> Tensor:
        """(T, T): the second moments of the outputs; in float64 where they are few."""
        if isinstance(self.moments, Sketch):
            second = self.moments.of_outputs(self.matrix)
        else:
            target = self.matrix @ self.moments if self.target is None else self.target
            second = target @ self.matrix.T
        return second if len(second) > WIDE else second.double()

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor, float]:
        """Energies, components and total, by the smaller side: of W S W^T, or of L^T W^T W L with S = L L^T."""
        outputs, inputs = self.matrix.shape
        if outputs <= inputs or isinstance(self.moments, Sketch):
            second = self._outputs
            if len(second) > MOST_EIGENVECTORS:
                del self.__dict__["_outputs"]
            return *most_eigenvectors(second), float(second.diagonal().sum())
        factor, failed = torch.linalg.cholesky_ex(self.moments)
        root = root_and_inverse(self.moments)[0] if failed else factor
        left, values, _ = thin_svd((self.matrix @ root).double())
        return values.square(), left, float(values.square().sum())


def evenly_scaled(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, with columns of ``left`` as long as the rows of ``right``."""
    tiny = torch.finfo(left.dtype).tiny
    scale = (right.norm(dim=1).clamp_min(tiny) / left.norm(dim=0).clamp_min(tiny)).sqrt()
    return left * scale, right / scale[:, None]
