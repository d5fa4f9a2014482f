"""The weight of least squared error between what a layer is given and what it has to give, on inputs not seen too.

With few inputs, or many that are alike, the weight of least error remembers them. So the inputs lie in ``PARTS``, and
the weight is the dense one and a share of the way from it to that of ridge regression towards it (Hoerl & Kennard
1970); the ridge and the share are those of least error on parts that the weight was not fitted to: cross-validation
(Stone 1974), by averages alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from itertools import repeat

import torch
from torch import Tensor, nn

from edgecompress.calibrating.moments import STEADY, mean_diagonal, moment_bytes, positions_at_most
from edgecompress.calibrating.patches import output_rows, patches, summable
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.calibrating.shortcuts import Norm
from edgecompress.calibrating.shrinking import shrinkage, squared
from edgecompress.decompositions.kernels import kernels
from edgecompress.decompositions.projection import solved
from edgecompress.decompositions.sketch import WIDE, Sketch, add_products, mirrored
from edgecompress.models.masks import kept_rows

RIDGE = 1e-3
"""Least pull towards the dense weight, as a share of the mean second moment of the inputs."""

FEW = 0.1
"""The pull grows to this share where there are no more patches than unknowns a row."""

PULLS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Pulls that are tried, likewise."""

LARGE = 1 << 18
"""Numbers of a weight from which on less is tried for it: each try costs as much as a fit."""

HOLDS = 0.8
"""Share of a step from which on it is worth trying to go further."""

PARTS = 4
"""Of the inputs: each is held out once."""

WIDE_BYTES = 1 << 25
"""Bytes of second moments from which on there are two parts, for memory and time."""

TOGETHER = 4
"""Inputs whose patches are taken at the same positions, and that lie in the same part."""

WORK, OWN_WORK = (6e10, 1.0), (2e10, 0.5)
"""Multiplications for the sums of a layer, and the least number of patches as a share of their length: those that tell
of a new weight, and those that tell how errors of its own count."""

SILENT = 1e-2
"""A batch norm's scale below this share of its largest is taken for that: no channel may ask for huge weights."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Over n patches x and targets y: the sums of x x^T, y x^T, x, y, by group.

    In float64; of patches wider than ``WIDE`` in float32, where that holds them.
    """

    second: Tensor
    cross: Tensor
    mean: Tensor
    mean_rows: Tensor
    count: int = 0

    @classmethod
    def none(cls, patches: Tensor, rows: Tensor) -> Totals:
        """Sums over nothing, for patches (groups, D, n) and rows (groups, T, n)."""
        groups, size, _ = patches.shape
        outputs, dtype = rows.shape[1], torch.float32 if size > WIDE and _single(patches, rows) else torch.float64
        shapes = (groups, size, size), (groups, outputs, size), (groups, size), (groups, outputs)
        second, cross, mean, mean_rows = (torch.zeros(shape, dtype=dtype) for shape in shapes)
        return cls(second, cross, mean, mean_rows)

    def plus(self, patches: Tensor, rows: Tensor) -> Totals:
        """With patches (groups, D, n) and rows (groups, T, n) more; in place, since they may be large."""
        x, y = summable(patches, rows)
        add_products(self.second, x)
        self.cross.add_((y @ x.mT).cpu())
        self.mean.add_(x.sum(2).cpu())
        self.mean_rows.add_(y.sum(2).cpu())
        return replace(self, count=self.count + x.shape[2])

    def averages(self) -> Totals:
        """The averages, in place."""
        n = max(1, self.count)
        return Totals(mirrored(self.second).div_(n), self.cross.div_(n), self.mean / n, self.mean_rows / n, self.count)

    def about(self, mean: Tensor, mean_rows: Tensor) -> Totals:
        """Averages, made so in place, about means (groups, D) and (groups, T)."""
        off, off_rows = self.mean - mean, self.mean_rows - mean_rows
        second = _moved(self.second, (self.mean, self.mean), (off, off))
        cross = _moved(self.cross, (self.mean_rows, self.mean), (off_rows, off))
        return Totals(second, cross, off, off_rows, self.count)

    def joined(self, other: Totals) -> Totals:
        """The averages over both, given as averages about the same means."""
        n = self.count + other.count
        share = other.count / n
        second, cross = torch.lerp(self.second, other.second, share), torch.lerp(self.cross, other.cross, share)
        mean, mean_rows = torch.lerp(self.mean, other.mean, share), torch.lerp(self.mean_rows, other.mean_rows, share)
        return Totals(second, cross, mean, mean_rows, n)

    def without(self, part: Totals) -> Totals:
        """The averages of all but a part, both given as averages about the same means."""
        n = self.count - part.count
        share = part.count / n
        second = torch.lerp(self.second, part.second, -share)
        cross = torch.lerp(self.cross, part.cross, -share)
        mean, mean_rows = (
            self.mean - share * (part.mean - self.mean),
            self.mean_rows - share * (part.mean_rows - self.mean_rows),
        )
        return Totals(second, cross, mean, mean_rows, n)


def _single(*rows: Tensor) -> bool:
    return all(of.dtype == torch.float32 for of in summable(*rows))


def _moved(averages: Tensor, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
    """``averages`` (groups, T, D), in place, without the products of the means ``before`` and with those ``after``."""
    for matrix, *vectors in zip(averages, *before, *after, strict=True):
        matrix.addr_(vectors[0], vectors[1], alpha=-1).addr_(vectors[2], vectors[3])
    return averages


def _add_to_diagonal(stacked: Tensor, level: Tensor) -> Tensor:
    """``stacked`` (groups, D, D), in place, with ``level`` (groups, 1, 1) added to the diagonal."""
    stacked.diagonal(dim1=1, dim2=2).add_(level[:, :, 0])
    return stacked


@dataclass(frozen=True, slots=True)
class Solution:
    """A weight (groups, T, D), the metric (groups, D, D) it is best in, and the means of inputs and targets."""

    weight: Tensor
    second: Tensor | tuple[Sketch, ...]
    mean: Tensor
    mean_rows: Tensor


class Parts:
    """What a layer is given and has to give, summed up in parts of the inputs.

    ``own``: it has to give what it gives, so that its weight is the answer, and targets count by their means alone.
    """

    def __init__(self, layer: nn.Module, inputs: int, *, own: bool = False) -> None:
        self.layer, self.own = layer, own
        self.most = positions_at_most(layer, inputs, *(OWN_WORK if own else WORK))
        self.of: dict[int, Totals] = {}
        self._parts = PARTS if moment_bytes(layer) < WIDE_BYTES else 2

    def add(self, start: int, size: int, given: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """``size`` inputs, the first of them the one with index ``start``; layers may be given several rows of each.

        Rows that are padding by the ``mask`` (inputs, positions) do not count.
        """
        each = TOGETHER * len(given) // size if len(given) % size == 0 else len(given)
        pairs: dict[int, list[tuple[Tensor, Tensor]]] = {}
        masks = mask.split(each) if mask is not None and len(mask) == len(given) else repeat(None)
        for index, (some, wanted, of_some) in enumerate(
            zip(given.split(each), target.split(each), masks, strict=False)
        ):
            offset = start // TOGETHER + index
            x = patches(self.layer, kept_rows(some, of_some), offset=offset, most=self.most)
            y = output_rows(self.layer, kept_rows(wanted, of_some), offset=offset, most=self.most)
            pairs.setdefault(offset % self._parts, []).append((x, y))
        for part, of_part in pairs.items():
            x, y = (torch.cat(rows, 2) for rows in zip(*of_part, strict=True))
            self.of[part] = (self.of[part] if part in self.of else Totals.none(x, y)).plus(x, y)

    def solution(self, metric: Metric | None, *, centred: bool) -> Solution:
        """The weight that is best on inputs that it was not fitted to; ``centred``: its mean error is corrected.

        A group whose inputs do not vary keeps its weight.
        """
        count = sum(part.count for part in self.of.values())
        own_mean = torch.stack([part.mean for part in self.of.values()]).sum(0) / count
        own_rows = torch.stack([part.mean_rows for part in self.of.values()]).sum(0) / count
        mean, mean_rows = (own_mean, own_rows) if centred else (0 * own_mean, 0 * own_rows)
        parts = [part.averages().about(mean, mean_rows) for part in self.of.values()]
        self.of.clear()
        about = reduce(Totals.joined, parts)
        dense = kernels(self.layer).flatten(2).to("cpu", about.second.dtype)
        scale = mean_diagonal(about.second)[:, None, None]
        unsure = FEW * dense.shape[-1] / about.count**2 * mean.square().mean(1)[:, None, None]
        still = ~(scale > STEADY * mean.square().mean(1)[:, None, None])
        weight = dense
        if not self.own:
            pull, share = _chosen(parts, about, dense, metric)
            step = _step(about, _unexplained(about, dense), pull * scale + unsure)
            weight = torch.where(still, dense, dense + share * step)
        second = _trusted(about, parts)
        _add_to_diagonal(second, max(RIDGE, FEW * dense.shape[-1] / about.count) * scale + unsure)
        for group in still.flatten().nonzero():
            second[group] = torch.eye(dense.shape[-1], dtype=second.dtype)
        return Solution(weight, second, own_mean, own_rows)


def _trusted(about: Totals, parts: list[Totals]) -> Tensor:
    """The second moments, in place; of no more patches than inputs, drawn towards a multiple of the identity.

    As far as the ``parts``, which are used up, differ in them (Ledoit & Wolf 2004). With more patches that did not
    help: at 0.7 of EfficientNet-Lite1's MACs 57.5 % of 120 other images agreed with the dense net, without it 60.8 %.
    """
    count = len(parts)
    if count < 2 or about.count > about.second.shape[-1]:
        return about.second
    off = torch.stack([squared(part.second.sub_(about.second)) for part in parts]).sum(0)
    parts.clear()
    share = shrinkage(about.second, off / (count * (count - 1)))[:, None, None].to(about.second.dtype)
    even = share * mean_diagonal(about.second)[:, None, None]
    return _add_to_diagonal(about.second.mul_(1 - share), even)


def _step(averages: Totals, unexplained: Tensor, pull: Tensor) -> Tensor:
    """From the dense weight to that of least squares, pulled back by ``pull`` (groups, 1, 1)."""
    before = averages.second.diagonal(dim1=1, dim2=2).clone()
    own = _add_to_diagonal(averages.second, pull)
    steps = [solved(*of_group) for of_group in zip(own, unexplained, strict=True)]
    own.diagonal(dim1=1, dim2=2).copy_(before)
    return torch.stack(steps)


def _unexplained(averages: Totals, dense: Tensor) -> Tensor:
    """(groups, T, D): what the dense weight leaves over of the products with the patches."""
    return averages.cross - dense @ averages.second


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """A part that was left out, what the dense weight leaves unexplained of it and of the others, and the others."""

    second: Tensor
    unexplained: Tensor
    others: Totals
    of_others: Tensor

    @classmethod
    def of(cls, part: Totals, others: Totals, dense: Tensor) -> _LeftOut:
        """``part`` and ``others`` are averages about the same means."""
        return cls(part.second, _unexplained(part, dense), others, _unexplained(others, dense))

    def slope_and_curve(self, pull: float, costs: Tensor | None) -> Tensor:
        """(2,): <D, R> and <D, D S> of the step D to the weight of the others."""
        step = _step(self.others, self.of_others, pull * mean_diagonal(self.others.second)[:, None, None])
        weighed = step if costs is None else costs @ step
        products = (weighed * self.unexplained).sum(), (weighed * (step @ self.second)).sum()
        return torch.stack(products).double()


def _chosen(parts: Sequence[Totals], whole: Totals, dense: Tensor, metric: Metric | None) -> tuple[float, float]:
    """The pull and the share of the step that are best on the parts, each left out in turn; ``whole`` is their average.

    All are averages about the same means.

    The square error on a part falls by 2 a <D, R> - a^2 <D, D S> for the share a of a step D, where R is what the dense
    weight leaves unexplained there: the best share is known exactly. Of large layers two parts are left out, of wide
    patches one, and not all pulls are tried.
    """
    if len(parts) < 2:
        return RIDGE, 1.0
    costs = None if metric is None else metric.matrix.to(dense.dtype)
    wide = dense.shape[-1] > WIDE
    large, some = wide or dense.numel() >= LARGE, 1 if wide else 2
    left = [_LeftOut.of(part, _others(part, parts, whole), dense) for part in (parts[:some] if large else parts)]

    @cache
    def tried(index: int) -> tuple[float, float]:
        return best_share(*torch.stack([of.slope_and_curve(PULLS[index], costs) for of in left]).sum(0).tolist())

    best = _climbed(tried) if large else max(range(len(PULLS)), key=tried)
    return PULLS[best], tried(best)[1]


def _others(part: Totals, parts: Sequence[Totals], whole: Totals) -> Totals:
    """All but ``part``: of two the other one."""
    return whole.without(part) if len(parts) > 2 else next(other for other in parts if other is not part)


def best_share(slope: float, curve: float) -> tuple[float, float]:
    """What the best share of a step brings, and that share."""
    share = min(1.0, max(0.0, slope / max(curve, torch.finfo(torch.float64).tiny)))
    return 2 * share * slope - share**2 * curve, share


def _climbed(tried: Callable[[int], tuple[float, float]]) -> int:
    """From the middle one of the pulls on, to less where its step holds on what was left out, as far as that helps."""
    at = len(PULLS) // 2
    step = -1 if tried(at)[1] > HOLDS else 1
    while at + step in range(len(PULLS)) and tried(at + step) > tried(at):
        at += step
    return at


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
