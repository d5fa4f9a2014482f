"""Chains of two links whose rank can be cut while they are trained: full-rank factors of which the first b are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import Conv, is_conv, is_transposed
from edgecompress.decompositions.kernels import groups_of, weight_of

TINY = 1e-12


class Ranked(nn.Module):
    """``reduce`` and ``expand`` of an SVD chain, of whose ranks the first ``rank`` are alive.

    ``rank`` is a buffer, so that checkpoints hold it; ``width`` is what the next runs use of it, None for all. A run
    at width b computes with sliced weights: what is not used costs nothing.
    """

    rank: Tensor

    def __init__(self, chain: nn.Sequential) -> None:
        super().__init__()
        self.reduce, self.expand = chain.get_submodule("reduce"), chain.get_submodule("expand")
        self.groups = groups_of(self.reduce)
        self.register_buffer("rank", torch.tensor(self.rows().shape[1]))
        self.width: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """As the chain cut to ``width``, or to ``rank``."""
        width = int(self.rank) if self.width is None else min(self.width, int(self.rank))
        reduced = _run(self.reduce, self._cut_rows(width), x)
        return _run(self.expand, self._cut_columns(width), reduced)

    def _cut_rows(self, width: int) -> Tensor:
        """The weight of ``reduce`` with the first ``width`` outputs of each group, in PyTorch's layout."""
        weight = weight_of(self.reduce)
        if is_transposed(self.reduce):
            return weight[:, :width]
        grouped: Tensor = weight.unflatten(0, (self.groups, -1))
        return grouped[:, :width].flatten(0, 1)

    def _cut_columns(self, width: int) -> Tensor:
        """The weight of ``expand`` for the first ``width`` inputs of each group; a 1x1 convolution or a Linear."""
        weight = weight_of(self.expand)
        return weight[:, :width]

    def rows(self) -> Tensor:
        """(groups, r, n): what makes each rank's channel."""
        weight = weight_of(self.reduce)
        grouped: Tensor = weight.unflatten(0, (self.groups, -1))
        return (grouped.transpose(1, 2) if is_transposed(self.reduce) else grouped).flatten(2)

    def columns(self) -> Tensor:
        """(groups, r, T): where each rank's channel goes."""
        weight = weight_of(self.expand)
        grouped: Tensor = weight.flatten(1).unflatten(0, (self.groups, -1))
        return grouped.transpose(1, 2)

    def tails(self) -> tuple[Tensor, Tensor]:
        """(r,) each: ``|U[:, b:]|_F`` and ``|V[:, b:]|_F`` for b = 0 ... r - 1, over all groups; with gradients.

        Of the r alive ranks alone: momentum moves the numbers of dead ones, which nothing uses. ``TINY`` within the
        root keeps the gradient finite where a tail is exactly zero.
        """
        alive = int(self.rank)
        squares = [vectors[:, :alive].float().square().sum((0, 2)) for vectors in (self.columns(), self.rows())]
        cut, kept = (square.flip(0).cumsum(0).flip(0) for square in squares)
        return (cut + TINY).sqrt(), (kept + TINY).sqrt()

    def shrink(self, rank: int) -> None:
        """Let ranks beyond the first ``rank`` die, for good; the numbers of all dead ones become zeros again."""
        with torch.no_grad():
            alive = min(rank, int(self.rank))
            self.rank.fill_(alive)
            reduce, expand = weight_of(self.reduce), weight_of(self.expand)
            expand[:, alive:] = 0
            if is_transposed(self.reduce):
                reduce[:, alive:] = 0
            else:
                reduce.unflatten(0, (self.groups, -1))[:, alive:] = 0


def _run(layer: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """``layer`` with another weight of the same kind."""
    if not is_conv(layer):
        assert isinstance(layer.bias, Tensor | None)
        return nn.functional.linear(x, weight, layer.bias)
    return _convolve(layer, weight, x)


def _convolve(layer: Conv, weight: Tensor, x: Tensor) -> Tensor:
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d):
        functional, flat = nn.functional, isinstance(layer, nn.ConvTranspose1d)
        transposed: Any = functional.conv_transpose1d if flat else functional.conv_transpose2d
        given = (layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation)
        moved: Tensor = transposed(x, weight, layer.bias, *given)
        return moved
    run: Tensor = layer._conv_forward(x, weight, layer.bias)
    return run


def ranked_layers(model: nn.Module) -> Iterator[tuple[str, Ranked]]:
    """Every :class:`Ranked` of ``model`` with its name."""
    for name, module in model.named_modules():
        if isinstance(module, Ranked):
            yield name, module
