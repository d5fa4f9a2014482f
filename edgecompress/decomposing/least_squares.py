"""The weight of least squared error between what a layer is given and what it has to give, on inputs not seen too.

With few inputs, or many that are alike, the weight of least error remembers them. So the inputs lie in ``PARTS``, and
the weight is the dense one and a share of the way from it to that of ridge regression towards it (Hoerl & Kennard
1970); the ridge and the share are those of least error on parts that the weight was not fitted to: cross-validation
(Stone 1974), by averages alone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from edgecompress.calibrating.moments import STEADY, mean_diagonal, moment_bytes, summable
from edgecompress.calibrating.patches import output_rows, patches
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.calibrating.shortcuts import Norm
from edgecompress.calibrating.shrinking import shrinkage, squared
from edgecompress.decompositions.kernels import kernels
from edgecompress.decompositions.projection import solved
from edgecompress.decompositions.sketch import products

RIDGE = 1e-3
"""Least pull towards the dense weight, as a share of the mean second moment of the inputs."""

FEW = 0.1
"""The pull grows to this share where there are no more patches than unknowns a row."""

PULLS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Pulls that are tried, likewise."""

PARTS = 4
"""Of the inputs: each is held out once."""

WIDE_BYTES = 1 << 25
"""Bytes of second moments from which on there are two parts, for memory and time."""

TOGETHER = 4
"""Inputs whose patches are taken at the same positions, and that lie in the same part."""

SILENT = 1e-2
"""A batch norm's scale below this share of its largest is taken for that: no channel may ask for huge weights."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Over n patches x and targets y: the sums of x x^T, y x^T, x, y, by group, float64."""

    second: Tensor
    cross: Tensor
    mean: Tensor
    mean_rows: Tensor
    count: int = 0

    @classmethod
    def none(cls, kernels: Tensor) -> Totals:
        """Sums over nothing, for a layer of ``kernels`` (groups, T, C, *taps)."""
        groups, outputs, size = kernels.flatten(2).shape
        shapes = (groups, size, size), (groups, outputs, size), (groups, size), (groups, outputs)
        second, cross, mean, mean_rows = (torch.zeros(shape, dtype=torch.float64) for shape in shapes)
        return cls(second, cross, mean, mean_rows)

    def plus(self, patches: Tensor, rows: Tensor) -> Totals:
        """With patches (groups, D, n) and rows (groups, T, n) more; in place, since they may be large."""
        x, y = summable(patches, rows)
        self.second.add_(products(x).cpu())
        self.cross.add_((y @ x.mT).cpu())
        self.mean.add_(x.sum(2).cpu())
        self.mean_rows.add_(y.sum(2).cpu())
        return replace(self, count=self.count + x.shape[2])

    def __add__(self, other: Totals) -> Totals:
        second, cross = self.second + other.second, self.cross + other.cross
        return Totals(second, cross, self.mean + other.mean, self.mean_rows + other.mean_rows, self.count + other.count)

    def averages(self) -> Totals:
        """The averages."""
        n = max(1, self.count)
        return Totals(self.second / n, self.cross / n, self.mean / n, self.mean_rows / n, self.count)

    def about(self, mean: Tensor, mean_rows: Tensor) -> Totals:
        """Averages about means (groups, D) and (groups, T)."""
        own = self.averages()
        off, off_rows = own.mean - mean, own.mean_rows - mean_rows
        second = own.second - _outer(own.mean, own.mean) + _outer(off, off)
        cross = own.cross - _outer(own.mean_rows, own.mean) + _outer(off_rows, off)
        return Totals(second, cross, off, off_rows, own.count)

    def without(self, part: Totals) -> Totals:
        """The averages of all but a part, both given as averages about the same means."""
        n = self.count - part.count
        share = part.count / n
        second = (1 + share) * self.second - share * part.second
        cross = (1 + share) * self.cross - share * part.cross
        mean, mean_rows = (
            self.mean - share * (part.mean - self.mean),
            self.mean_rows - share * (part.mean_rows - self.mean_rows),
        )
        return Totals(second, cross, mean, mean_rows, n)


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left[:, :, None] * right[:, None]


@dataclass(frozen=True, slots=True)
class Solution:
    """A weight (groups, T, D), the metric (groups, D, D) it is best in, and the means of inputs and targets."""

    weight: Tensor
    second: Tensor
    mean: Tensor
    mean_rows: Tensor


class Parts:
    """What a layer is given and has to give, summed up in parts of the inputs."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.of: dict[int, Totals] = {}
        self._parts = PARTS if moment_bytes(layer) < WIDE_BYTES else 2

    def add(self, start: int, size: int, given: Tensor, target: Tensor) -> None:
        """``size`` inputs, the first of them the one with index ``start``; layers may be given several rows of each."""
        each = TOGETHER * len(given) // size if len(given) % size == 0 else len(given)
        pairs: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for index, (some, wanted) in enumerate(zip(given.split(each), target.split(each), strict=True)):
            offset = start // TOGETHER + index
            rows = output_rows(self.layer, wanted, offset=offset)
            pairs.setdefault(offset % self._parts, []).append((patches(self.layer, some, offset=offset), rows))
        for part, of_part in pairs.items():
            x, y = (torch.cat(rows, 2) for rows in zip(*of_part, strict=True))
            self.of[part] = self.of[part].plus(x, y) if part in self.of else Totals.none(kernels(self.layer)).plus(x, y)

    def solution(self, metric: Metric | None, *, centred: bool) -> Solution:
        """The weight that is best on inputs that it was not fitted to; ``centred``: its mean error is corrected.

        A group whose inputs do not vary keeps its weight.
        """
        dense, total = kernels(self.layer).flatten(2).double().cpu(), reduce(add, self.of.values())
        own = total.averages()
        mean, mean_rows = (own.mean, own.mean_rows) if centred else (0 * own.mean, 0 * own.mean_rows)
        about = total.about(mean, mean_rows)
        scale = mean_diagonal(about.second)[:, None, None]
        pull, share = _chosen(self.of.values(), about, (mean, mean_rows), dense, metric)
        unsure = FEW * dense.shape[-1] / about.count**2 * mean.square().mean(1)[:, None, None]
        weight = dense + share * _step(about, _unexplained(about, dense), pull * scale + unsure)
        eye = torch.eye(dense.shape[-1], dtype=torch.float64)
        still = ~(scale > STEADY * mean.square().mean(1)[:, None, None])
        trusted = self._trusted(about, mean, mean_rows)
        second = trusted + (max(RIDGE, FEW * dense.shape[-1] / about.count) * scale + unsure) * eye
        return Solution(torch.where(still, dense, weight), torch.where(still, eye, second), own.mean, own.mean_rows)

    def _trusted(self, about: Totals, mean: Tensor, mean_rows: Tensor) -> Tensor:
        """The second moments; of no more patches than inputs, drawn towards a multiple of the identity.

        As far as the parts differ in them (Ledoit & Wolf 2004). With more patches that did not help: at 0.7 of
        EfficientNet-Lite1's MACs 57.5 % of 120 other images agreed with the dense net, without it 60.8 %.
        """
        count = len(self.of)
        if count < 2 or about.count > about.second.shape[-1]:
            return about.second
        each = [squared(part.about(mean, mean_rows).second - about.second) for part in self.of.values()]
        off = torch.stack(each).sum(0)
        share = shrinkage(about.second, off / (count * (count - 1)))[:, None, None]
        even = mean_diagonal(about.second)[:, None, None] * torch.eye(about.second.shape[-1], dtype=torch.float64)
        return (1 - share) * about.second + share * even


def _step(averages: Totals, unexplained: Tensor, pull: Tensor) -> Tensor:
    """From the dense weight to that of least squares, pulled back by ``pull`` (groups, 1, 1)."""
    own = averages.second + pull * torch.eye(unexplained.shape[-1], dtype=torch.float64)
    return torch.stack([solved(*of_group) for of_group in zip(own, unexplained, strict=True)])


def _unexplained(averages: Totals, dense: Tensor) -> Tensor:
    """(groups, T, D): what the dense weight leaves of the targets, times the inputs."""
    return averages.cross - dense @ averages.second


def _chosen(
    parts: Collection[Totals], whole: Totals, means: tuple[Tensor, Tensor], dense: Tensor, metric: Metric | None
) -> tuple[float, float]:
    """The pull and the share of the step that are best on the parts, each left out in turn; ``whole`` is their average.

    The square error on a part falls by 2 a <D, R> - a^2 <D, D S> for the share a of a step D, where R is what the dense
    weight leaves unexplained there: the best share is known exactly.
    """
    if len(parts) < 2:
        return RIDGE, 1.0
    slope, curve = torch.zeros(2, len(PULLS), dtype=torch.float64)
    for part in parts:
        held = part.about(*means)
        others = whole.without(held)
        left, left_there, scale = _unexplained(others, dense), _unexplained(held, dense), mean_diagonal(others.second)
        for index, pull in enumerate(PULLS):
            step = _step(others, left, pull * scale[:, None, None])
            costly = step if metric is None else metric.matrix @ step
            slope[index] += (costly * left_there).sum()
            curve[index] += (costly * (step @ held.second)).sum()
    share = (slope / curve.clamp_min(torch.finfo(torch.float64).tiny)).clamp(0, 1)
    best = int((2 * share * slope - share**2 * curve).argmax())
    return PULLS[best], float(share[best])


def affine(norm: nn.Module, dims: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm in eval mode, for tensors of so many axes.

    Channels that it all but silences count as louder.
    """
    assert isinstance(norm, Norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.detach())
    shift = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias.detach())
    least = SILENT * scale.abs().max()
    scale = torch.where(scale.abs() < least, least.copysign(scale), scale)
    shape = (-1, *[1] * (dims - 2))
    return scale.reshape(shape), shift.reshape(shape)
