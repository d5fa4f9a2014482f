"""Tensor train of a matrix whose input mode is split in two.

W[o, (i1 i2)] = sum over r1, r2 of G1[o, r1] G2[r1, i1, r2] G3[r2, i2], by TT-SVD (Oseledets 2011): the TT-matrix of
Novikov et al. 2015, arXiv 1509.06569, with output modes (out, 1, 1) and input modes (1, i1, i2). Run from the right:
i2 -> r2 at each of the i1 places, then i1 r2 -> r1, then r1 -> out, which carries the bias; between them are views.

The output mode stays whole for two reasons. The last link then has one bias an output, where split modes need a further
layer to add it. And trained layers lose less: with two balanced cores that split the outputs too, the Linears of
``lenet5`` and ``lenet300`` have 1.2 to 3.1 times the squared error at a tenth to a half of the dense parameters (their
last ones, of ten outputs, 0.96 to 1.1 times).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import (
    Conv,
    Factors,
    Support,
    decomposable,
    is_conv,
    is_pointwise,
    is_transposed,
    kept_energy,
    placement,
    pointwise,
    squared_norm,
    thin_svd,
    thinner,
)
from edgecompress.decompositions.kernels import groups_of, kernel_shape
from edgecompress.decompositions.projection import STEPS, refined, relative_output_errors
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class TensorTrain:
    """Ranks ``(r1, r2)``, from the output to the input; links ``reduce``, ``core`` and ``expand``."""

    name: str = "tensor_train"
    summary: str = (
        "inputs i1 x i2 (views), i2 -> r2, i1 r2 -> r1, r1 -> out: TT-SVD; Oseledets 2011, Novikov et al. 2015"
    )
    links: tuple[str, ...] = ("reduce", "core", "expand")
    automatic: bool = False
    steps: int = STEPS

    def supports(self, layer: nn.Module) -> Support:
        """Plain Linear and 1x1 convolutions whose number of inputs is a product."""
        support = decomposable(layer)
        if not support:
            return support
        if isinstance(layer, nn.Conv3d):
            return Support("Conv3d: svd, tucker2 and cp3 replace it")
        if is_transposed(layer) or groups_of(layer) > 1:
            return Support("a grouped or transposed convolution: its channels cannot wait in the batch, use svd")
        if is_conv(layer) and not is_pointwise(layer):
            return Support("a k x k kernel: its tensor train with equal ranks is its Tucker-2 form, use tucker2")
        inputs = kernel_shape(layer)[1]
        if input_modes(inputs)[1] == 1:
            return Support(f"{inputs} inputs: not a product of two modes larger than 1, use svd")
        return support

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The smaller side of the matrix, and ``i2``."""
        outputs, inputs, *_ = kernel_shape(layer)
        return min(outputs, inputs), input_modes(inputs)[1]

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """``reduce``, ``core``, ``expand`` and the views between them; the bias is the last link's.

        A Linear takes inputs of any dimensions, a convolution only batches.
        """
        if is_conv(layer):
            return _of_convolutions(layer, ranks)
        assert isinstance(layer, nn.Linear)
        return _of_linears(layer, ranks)

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """``(r2, i2, 1...)``, ``(r1, i1 r2, 1...)``, ``(out, r1, 1...)``; without moments with orthonormal ends."""
        rank_1, rank_2 = ranks
        left, rest = first_cut(kernel)
        cut = rest[:rank_1].reshape(-1, rest.shape[2])
        reduce = thin_svd(cut)[2][:rank_2]
        core = (cut @ reduce.T).reshape(rank_1, -1)
        ones = [1] * (kernel.dim() - 2)
        factors = tuple(factor.reshape(*factor.shape, *ones) for factor in (reduce, core, left[:, :rank_1]))
        return factors if moments is None else refined(self, kernel.double(), moments, factors, self.steps)

    def reconstruct(self, factors: Factors) -> Tensor:
        """The sum over both ranks."""
        reduce, core, expand = (factor.flatten(1) for factor in factors)
        middle = core.reshape(len(core), -1, len(reduce))
        matrix = torch.einsum("or,ris,sj->oij", expand, middle, reduce).flatten(1)
        return matrix.reshape(*matrix.shape, *factors[0].shape[2:])

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """Exact: what the second cut keeps of what the first one kept."""
        if moments is not None:
            return relative_output_errors(self, kernel.double(), moments, candidates)
        _, rest = first_cut(kernel)
        total = squared_norm(kernel)
        kept = {r1: kept_energy(rest[:r1].reshape(-1, rest.shape[2])) / total for r1 in {r1 for r1, _ in candidates}}
        return [max(0.0, 1 - float(kept[rank_1][rank_2 - 1])) for rank_1, rank_2 in candidates]

    def unfoldings(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """The matrix, and its rows cut in two: the two unfoldings of the TT-SVD."""
        return kernel.flatten(1), kernel.reshape(-1, input_modes(kernel.shape[1])[1])


def input_modes(inputs: int) -> tuple[int, int]:
    """``(i1, i2)``: the two factors nearest to each other, the larger first; ``i2`` is 1 for a prime.

    With the larger first the second cut has at least as many rows as columns, so its rank may be any up to ``i2``.
    """
    smaller = next(size for size in range(isqrt(inputs), 0, -1) if inputs % size == 0)
    return inputs // smaller, smaller


def first_cut(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors (columns) of the matrix, and what they leave of it: ``(r1, i1, i2)`` at full rank."""
    left, values, right = thin_svd(weight.double().flatten(1))
    return left, (values[:, None] * right).reshape(len(values), *input_modes(weight.shape[1]))


def _of_linears(layer: nn.Linear, ranks: Ranks) -> nn.Sequential:
    """Every view and product is of the last axes, so any number of axes may lead."""
    (rank_1, rank_2), modes, place = ranks, input_modes(layer.in_features), placement(layer)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            split=nn.Unflatten(-1, modes),
            reduce=nn.Linear(modes[1], rank_2, bias=False, **place),
            merge=nn.Flatten(-2),
            core=nn.Linear(modes[0] * rank_2, rank_1, bias=False, **place),
            expand=nn.Linear(rank_1, layer.out_features, bias=layer.bias is not None, **place),
        )
    )


def _of_convolutions(layer: Conv, ranks: Ranks) -> nn.Sequential:
    """``i1`` waits in the batch while ``i2`` is reduced, so that the stride acts in the first link."""
    (rank_1, rank_2), modes = ranks, input_modes(layer.in_channels)
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            split=nn.Unflatten(1, modes),
            fold=nn.Flatten(0, 1),
            reduce=thinner(layer, modes[1], rank_2),
            unfold=nn.Unflatten(0, (-1, modes[0])),
            merge=nn.Flatten(1, 2),
            core=pointwise(layer, modes[0] * rank_2, rank_1, bias=False),
            expand=pointwise(layer, rank_1, layer.out_channels, bias=layer.bias is not None),
        )
    )
