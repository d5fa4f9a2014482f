"""What a decomposition is, and the pieces every one of them needs.

Structure (``chain``) is apart from numbers (``factors``): costs and reloading need only ``chain``, errors only
``factors`` and ``reconstruct``, and filling a chain is one strict ``load_state_dict``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from edgecompress.plans import Ranks

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d
RECURRENT = nn.RNNBase | nn.RNNCellBase
Factors = tuple[Tensor, ...]
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)


NUMERICAL: tuple[type[Exception], ...] = (torch.linalg.LinAlgError, ArithmeticError)  # type: ignore[attr-defined]
"""What numbers without an answer end in."""


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a method can replace a layer; falsy with the reason in words where it cannot."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


SUPPORTED = Support()


class Decomposition(Protocol):
    """A way to replace one layer by a short chain of thinner standard layers.

    Numbers are those of one *kernel*: the weight of one group, (T, C, *taps) whatever PyTorch's own layout of the
    layer (see ``decompositions.kernels``); a grouped layer has several, each decomposed at the same ranks.
    ``moments`` (D, D) with D = C * taps are the second moments of the layer's input patches: with them an error is
    that of the layer's outputs, tr((W - W') S (W - W')^T), instead of that of its weight.
    """

    @property
    def name(self) -> str:
        """The key in ``DECOMPOSITIONS``."""

    @property
    def summary(self) -> str:
        """One line for people: the chain and the paper."""

    @property
    def automatic(self) -> bool:
        """Is it among the methods that ``--method auto`` tries? Slow or rarely better ones wait to be named."""

    @property
    def links(self) -> tuple[str, ...]:
        """The names of the chain's links, its layers with a weight, in order; its other children are views."""

    def supports(self, layer: nn.Module) -> Support:
        """Can this method replace ``layer``? If not, the reason in words."""

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The ranks at which the chain is exact."""

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """The replacement with weights not yet filled; works under ``torch.device("meta")``."""

    def factors(self, kernel: Tensor, ranks: Ranks, moments: Tensor | None = None) -> Factors:
        """The kernels of the chain's links in order, float64."""

    def reconstruct(self, factors: Factors) -> Tensor:
        """The kernel that the factors stand for."""

    def errors(self, kernel: Tensor, candidates: Sequence[Ranks], moments: Tensor | None = None) -> list[float]:
        """Relative squared error ``|W - W'|^2 / |W|^2`` at each of ``candidates``, cheap for many of them.

        An upper bound of what :meth:`factors` reaches, within rounding.
        """

    def unfoldings(self, kernel: Tensor) -> tuple[Tensor, ...]:
        """For each rank the matrix whose singular values speak of it; none where ranks have no such matrix."""


def is_conv(layer: nn.Module) -> TypeGuard[Conv]:
    """A convolution of ``CONVS`` itself; subclasses may do anything in ``forward``."""
    return type(layer) in CONVS


def is_transposed(layer: nn.Module) -> bool:
    """A transposed convolution."""
    return isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)


def is_table(layer: nn.Module) -> bool:
    """An embedding itself that does nothing but look up rows."""
    return type(layer) is nn.Embedding and layer.max_norm is None and not layer.sparse and not layer.scale_grad_by_freq


def is_pointwise(layer: nn.Module) -> bool:
    """A convolution whose kernel has one element."""
    return is_conv(layer) and prod(layer.kernel_size) == 1


def decomposable(layer: nn.Module) -> Support:
    """Is this a Linear or a convolution that any method here could replace?"""
    if any(parameter.is_complex() for parameter in layer.parameters(recurse=False)):
        return Support("complex weights: only real ones are decomposed")
    if type(layer) is nn.Linear:
        return SUPPORTED
    if isinstance(layer, RECURRENT):
        return Support(f"{type(layer).__name__}: recurrent; its matrices stay in one operator, which runtimes run fast")
    if not is_conv(layer):
        kinds = ", ".join(kind.__name__ for kind in CONVS)
        return Support(f"{type(layer).__name__}: only Linear, {kinds} are decomposed")
    if layer.groups == layer.in_channels and layer.groups > 1:
        return Support(f"depthwise ({layer.groups} groups): already one small filter a channel")
    return SUPPORTED


def pointwise(layer: Conv, channels_in: int, channels_out: int, *, bias: bool) -> Conv:
    """A 1x1 convolution before or after ``layer``, its channels per group, with its groups, dtype and device."""
    groups = layer.groups
    kind = CONVS[len(layer.kernel_size) - 1]
    return kind(groups * channels_in, groups * channels_out, 1, groups=groups, bias=bias, **placement(layer))


def thinner(layer: Conv, channels_in: int, channels_out: int) -> Conv:
    """``layer`` without bias and with other channels, counted per group."""
    groups = layer.groups
    return type(layer)(groups * channels_in, groups * channels_out, bias=False, **geometry(layer), **placement(layer))


def geometry(layer: Conv) -> dict[str, Any]:
    """Everything of a convolution but its channels and bias."""
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "groups")
    more = ("output_padding",) if is_transposed(layer) else ()
    return {name: getattr(layer, name) for name in (*names, *more)}


def placement(layer: nn.Module) -> dict[str, Any]:
    """dtype and device for new layers; under ``torch.device("meta")`` nothing is allocated."""
    weight = next(layer.parameters())
    default = torch.get_default_device()
    return {"dtype": weight.dtype, "device": default if default.type == "meta" else weight.device}


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """As ``torch.stack``; of a single one no copy is made."""
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tuple(tensors))


def squared_norm(tensor: Tensor) -> float:
    """Sum of squares in float64."""
    return float(tensor.double().pow(2).sum())


def leading_eigenvectors(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (descending, not below 0) and eigenvectors (columns) of a symmetric matrix, or of each in a batch.

    Each column's sign is fixed (its largest entry is positive), so that equal input gives equal factors on
    every machine.
    """
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(-1).clamp_min(0), vectors.flip(-1)
    largest = vectors.abs().argmax(-2, keepdim=True)
    return values, vectors * vectors.gather(-2, largest).sign()


MOST_EIGENVECTORS = 2048
"""Of a larger symmetric matrix only the leading ``PART`` are worked out."""

PART, SPARE, ROUNDS = 0.25, 32, 2
"""Of a large matrix's eigenvectors; more of them than are kept; how often they are multiplied by it."""


def most_eigenvectors(gram: Tensor, kept: int | None = None) -> tuple[Tensor, Tensor]:
    """:func:`leading_eigenvectors`, of large matrices only the first, by subspace iteration (Halko et al. 2011).

    They are as many as are to be ``kept``, else ``PART`` of all.

    Each of the eigenvalues is at most the true one, and their sum is at most that of as many true ones.
    """
    size = len(gram)
    kept = kept or int(PART * size)
    if size <= MOST_EIGENVECTORS or 2 * (kept + SPARE) > size:
        return leading_eigenvectors(gram)
    start = torch.randn(size, kept + SPARE, generator=torch.Generator().manual_seed(0)).to(gram)
    for _ in range(ROUNDS + 1):
        start = torch.linalg.qr(gram @ start)[0]
    values, turned = leading_eigenvectors(start.T @ gram @ start)
    return values[:kept], start @ turned[:, :kept]


def kept_energy(matrix: Tensor) -> Tensor:
    """Sum of the r largest squared singular values, for r = 1, 2, ... up to the matrix's smaller side."""
    return cumulative_energy(gram(matrix))


def cumulative_energy(gram: Tensor) -> Tensor:
    """Sum of the r largest eigenvalues of a symmetric matrix, none below 0, for r = 1, 2, ..."""
    energy: Tensor = torch.linalg.eigvalsh(gram)
    return energy.flip(0).clamp_min(0).cumsum(0)


def gram(matrix: Tensor) -> Tensor:
    """The smaller of the two Gram matrices: its ``eigh`` costs far less than an SVD of a wide unfolding."""
    rows, columns = matrix.shape
    return matrix @ matrix.T if rows <= columns else matrix.T @ matrix


def thin_svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors (columns), singular values (descending), right vectors (rows), by ``eigh`` of a Gram matrix."""
    rows, columns = matrix.shape
    energy, vectors = leading_eigenvectors(gram(matrix))
    values = energy.sqrt()
    safe = values.clamp_min(values[0] * 1e-12 + torch.finfo(values.dtype).tiny)
    if rows <= columns:
        return vectors, values, (vectors.T @ matrix) / safe[:, None]
    return (matrix @ vectors) / safe, values, vectors.T
