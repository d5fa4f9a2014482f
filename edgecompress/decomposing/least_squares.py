"""The weight of least squared error between what a layer is given and what it has to give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.calibrating.moments import STEADY, mean_diagonal, summable
from edgecompress.calibrating.patches import sampled_patches
from edgecompress.calibrating.shortcuts import Norm
from edgecompress.decompositions.kernels import kernels
from edgecompress.decompositions.projection import solved

RIDGE = 1e-3
"""Pull towards the dense weight, as a share of the mean second moment of the inputs."""

FEW = 0.1
"""The pull grows to this share where there are no more patches than unknowns a row."""

SILENT = 1e-2
"""A batch norm's scale below this share of its largest is taken for that: no channel may ask for huge weights."""


@dataclass(frozen=True, slots=True)
class Averages:
    """Over n patches x and targets y: E[x x^T], E[y x^T], E[x], E[y], by group, float64."""

    second: Tensor
    cross: Tensor
    mean: Tensor
    mean_rows: Tensor
    count: int

    def centred(self) -> Averages:
        """The same about the means."""
        second = self.second - self.mean[:, :, None] * self.mean[:, None]
        cross = self.cross - self.mean_rows[:, :, None] * self.mean[:, None]
        return Averages(second, cross, self.mean, self.mean_rows, self.count)

    def solution(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """The weight (groups, T, D) of least squares, pulled towards ``dense``, and the metric it is best in.

        A group whose inputs do not vary keeps its weight.
        """
        size = self.second.shape[-1]
        spread = max(RIDGE, FEW * size / self.count) * self.second.diagonal(dim1=1, dim2=2).mean(1)
        unsure = FEW * size / self.count**2 * self.mean.square().mean(1)  # one patch alone has no spread about its mean
        pull = (spread + unsure)[:, None, None]
        second = self.second + pull * torch.eye(size, dtype=torch.float64)
        weights = [solved(own, cross) for own, cross in zip(second, self.cross + pull * dense, strict=True)]
        steady = ~(mean_diagonal(self.second) > STEADY * self.mean.square().mean(1))[:, None, None]
        identity = torch.eye(size, dtype=torch.float64)
        return torch.where(steady, dense, torch.stack(weights)), torch.where(steady, identity, second)


def averages_of(layer: nn.Module, given: Tensor, rows: Tensor, at_once: int) -> Averages:
    """The averages over what a layer is given.

    Args:
        layer: a convolution or Linear layer.
        given: its input, batch first.
        rows: what it has to give, (groups, T, n), at the sampled positions.
        at_once: images that are unfolded at a time.
    """
    groups, outputs, size = kernels(layer).flatten(2).shape
    second = torch.zeros(groups, size, size, dtype=torch.float64)
    cross = torch.zeros(groups, outputs, size, dtype=torch.float64)
    mean, start = torch.zeros(groups, size, dtype=torch.float64), 0
    for sampled in sampled_patches(layer, given, at_once):
        stop = start + sampled.shape[2]
        patches, wanted = summable(sampled, rows[:, :, start:stop])
        second += (patches @ patches.mT).double()
        cross += (wanted @ patches.mT).double()
        mean += patches.sum(2).double()
        start = stop
    return Averages(second / start, cross / start, mean / start, rows.double().mean(2), start)


def affine(norm: nn.Module, groups: int) -> tuple[Tensor, Tensor]:
    """Scale and shift (groups, T, 1) of a batch norm in eval mode; channels it all but silences count as louder."""
    assert isinstance(norm, Norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.detach())
    shift = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias.detach())
    least = SILENT * scale.abs().max()
    scale = torch.where(scale.abs() < least, least.copysign(scale), scale)
    return scale.reshape(groups, -1, 1), shift.reshape(groups, -1, 1)
