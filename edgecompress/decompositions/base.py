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

Conv = nn.Conv1d | nn.Conv2d
Factors = tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a method can replace a layer; falsy with the reason in words where it cannot."""

    reason: str = ""

    def __bool__(self) -> bool:
        return not self.reason


SUPPORTED = Support()


class Decomposition(Protocol):
    """A way to replace one layer by a short chain of thinner standard layers."""

    @property
    def name(self) -> str:
        """The key in ``DECOMPOSITIONS``."""

    @property
    def summary(self) -> str:
        """One line for people: the chain and the paper."""

    @property
    def links(self) -> tuple[str, ...]:
        """The names of the chain's links, in order."""

    def supports(self, layer: nn.Module) -> Support:
        """Can this method replace ``layer``? If not, the reason in words."""

    def max_ranks(self, layer: nn.Module) -> Ranks:
        """The ranks at which the chain is exact."""

    def chain(self, layer: nn.Module, ranks: Ranks) -> nn.Sequential:
        """The replacement with weights not yet filled; works under ``torch.device("meta")``."""

    def factors(self, weight: Tensor, ranks: Ranks) -> Factors:
        """The weights of the chain's links in order, float64, for a weight in PyTorch's layout."""

    def reconstruct(self, factors: Factors) -> Tensor:
        """The dense weight that the factors stand for."""

    def errors(self, weight: Tensor, candidates: Sequence[Ranks]) -> list[float]:
        """Relative squared error ``|W - W'|^2 / |W|^2`` at each of ``candidates``, cheap for many of them.

        An upper bound of what :meth:`factors` reaches, within rounding.
        """


def is_conv(layer: nn.Module) -> TypeGuard[Conv]:
    """A Conv1d or Conv2d itself; subclasses may do anything in ``forward``."""
    return type(layer) in (nn.Conv1d, nn.Conv2d)


def is_pointwise(layer: nn.Module) -> bool:
    """A convolution whose kernel has one element."""
    return is_conv(layer) and prod(layer.kernel_size) == 1


def plain_layer(layer: nn.Module) -> Support:
    """Is this a Linear, Conv1d or Conv2d that any method here could replace?"""
    if any(parameter.is_complex() for parameter in layer.parameters(recurse=False)):
        return Support("complex weights: only real ones are decomposed")
    if type(layer) is nn.Linear:
        return SUPPORTED
    if not is_conv(layer):
        return Support(f"{type(layer).__name__}: only Linear, Conv1d and Conv2d are decomposed")
    if layer.groups == 1:
        return SUPPORTED
    if layer.groups == layer.in_channels:
        return Support(f"depthwise ({layer.groups} groups): already one small filter a channel")
    return Support(f"grouped ({layer.groups} groups): a chain over all channels would not be the same layer")


def pointwise(layer: Conv, channels_in: int, channels_out: int, *, bias: bool) -> Conv:
    """A 1x1 convolution of ``layer``'s kind, dtype and device."""
    return type(layer)(channels_in, channels_out, 1, bias=bias, **placement(layer))


def geometry(layer: Conv) -> dict[str, Any]:
    """Everything of a convolution but its channels and bias."""
    return {
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "padding_mode": layer.padding_mode,
    }


def placement(layer: nn.Module) -> dict[str, Any]:
    """dtype and device for new layers; under ``torch.device("meta")`` nothing is allocated."""
    weight = next(layer.parameters())
    default = torch.get_default_device()
    return {"dtype": weight.dtype, "device": default if default.type == "meta" else weight.device}


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


def kept_energy(matrix: Tensor) -> Tensor:
    """Sum of the r largest squared singular values, for r = 1, 2, ... up to the matrix's smaller side."""
    energy: Tensor = torch.linalg.eigvalsh(gram(matrix))
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
