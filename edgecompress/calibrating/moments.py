"""Second moments of what a layer is given: the metric in which its outputs are approximated.

A convolution is a product of its weight with im2col patches u of its input, (D,) = (C / groups * taps) in the order of
its kernel. Collected here in one streaming pass over calibration inputs: the sum of (u - p) (u - p)^T and of u over
images and positions, with p about the mean; ``moment_bytes`` a layer. The largest networks take several passes, so that
at most ``MOST_BYTES`` are in memory. What few inputs say is drawn towards equal moments in all directions, by as much
as groups of inputs differ: see ``shrinking``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod

import torch
from torch import Tensor, nn

from edgecompress.calibrating.batching import inputs_at_once
from edgecompress.calibrating.patches import MOST_POSITIONS, images_at_once, patches, summable
from edgecompress.calibrating.shrinking import GROUPS, Spread, share, shrinkage, squared
from edgecompress.calibrating.twins import Twins
from edgecompress.decompositions.base import is_table
from edgecompress.decompositions.kernels import groups_of, kernel_shape
from edgecompress.decompositions.sketch import WIDE, Sketch, add_products, mirrored, products
from edgecompress.errors import ModelError
from edgecompress.memory import naming_shortage, without
from edgecompress.models import Call, calibrated, evaluating, named_layers, observing
from edgecompress.models.datasets import Inputs, in_parts
from edgecompress.models.masks import counted, counted_parts

MOST_BYTES = 9 << 26
"""Of moments in memory at once: 600 MB, of all layers of a ResNet-50, so that it runs once for them."""

MOST_MATRIX_BYTES, MOST_CONV_BYTES = 1 << 27, 1 << 29
"""Of the moments of one Linear layer, 5,792 inputs wide, beyond which patches stand for them; and of a convolution,
11,585 wide, beyond which nothing does."""

MOST_ROWS = 2048
"""Patches that stand for the moments of a layer, at most."""

STEADY = 1e-10
"""A spread below this share of the squared mean is rounding: the inputs do not vary."""

MOST_PRODUCTS, PATCHES = 2e10, 0.5
"""Multiplications for the moments of a layer, half a second: wide patches are taken at fewer positions, but not at so
few that there are fewer of them than this share of their length."""

MOST_MATRIX = 2048
"""Patches of a Linear layer longer than this are kept as they are where they are fewer than their length."""

RIDGE = 1e-3
"""Share of the mean second moment that is added to all directions of the inputs: few inputs do not span them."""


@dataclass(frozen=True)
class Moments:
    """What a layer is given, averaged over ``count`` patches of some inputs.

    Args:
        spread: (groups, D, D): the average of (u - mean) (u - mean)^T; float64, or float32 where D is above ``WIDE``.
        mean: (groups, D): the average of u; float64.
        count: patches.
        noise: (groups,): the expected squared Frobenius distance of ``spread`` from what all inputs there are would
            give, by how much groups of inputs differ; None where that is not known, and counts as 0.
    """

    spread: Tensor
    mean: Tensor
    count: int
    noise: Tensor | None = None

    @property
    def second(self) -> Tensor:
        """(groups, D, D): the average of u u^T."""
        return self.spread + self.mean[:, :, None] * self.mean[:, None]

    def steady(self) -> Tensor:
        """(groups,): is a group given the same numbers all the time, so that inputs tell nothing of its errors?"""
        return ~(mean_diagonal(self.spread) > STEADY * self.mean.square().mean(1))

    @cached_property
    def shrinkage(self) -> Tensor:
        """(groups,), 0 to 1: how far the few inputs are drawn towards equal moments in all directions."""
        return torch.zeros(len(self.mean)) if self.noise is None else shrinkage(self.spread, self.noise)

    @cached_property
    def centred(self) -> Tensor:
        """Second moments (groups, D, D) about the mean, shrunk by the number of inputs, and damped.

        In them an error is that of the outputs for inputs that were not seen; what the mean adds to it is corrected. A
        group whose inputs do not vary counts as one whose inputs vary alike in all directions, as little as the
        damping.
        """
        steady, mean = self.steady(), mean_diagonal(self.spread)
        usual = float(mean[~steady].max()) if not steady.all() else 1.0
        kept = torch.where(steady, 0.0, 1 - self.shrinkage).to(self.spread.dtype)
        shrunk = self.spread * kept[:, None, None]
        level = torch.where(steady, RIDGE * usual, (self.shrinkage + RIDGE) * mean).to(shrunk.dtype)
        shrunk.diagonal(dim1=1, dim2=2).add_(level[:, None])
        return shrunk


@dataclass(frozen=True)
class FewMoments:
    """:class:`Moments` of a Linear layer by its patches ``rows`` (n, D), about their mean, where n is below D."""

    rows: Tensor
    mean: Tensor
    count: int
    noise: Tensor

    def steady(self) -> Tensor:
        """(1,): is it given the same numbers all the time?"""
        return ~(self._level > STEADY * self.mean.square().mean(1))

    @property
    def _level(self) -> Tensor:
        """(1,): the mean of the diagonal."""
        return self.rows.square().mean(dtype=torch.float64)[None]

    @cached_property
    def shrinkage(self) -> Tensor:
        """(1,): as of :class:`Moments`."""
        distance = squared((self.rows @ self.rows.T / self.count)[None]) - self.rows.shape[1] * self._level.square()
        return share(self.noise, distance)

    @cached_property
    def centred(self) -> tuple[Sketch]:
        """As of :class:`Moments`, for the one group of a Linear layer."""
        if bool(self.steady()):
            return (Sketch(torch.zeros_like(self.rows[:1]), RIDGE),)
        kept = float((1 - self.shrinkage) / self.count) ** 0.5
        return (Sketch(self.rows * kept, float((self.shrinkage + RIDGE) * self._level)),)


def mean_diagonal(stacked: Tensor) -> Tensor:
    """(groups,) of (groups, D, D)."""
    return stacked.diagonal(dim1=1, dim2=2).mean(1)


def moment_bytes(layer: nn.Module) -> int:
    """Bytes that the second moments of a layer take."""
    _, *rest = kernel_shape(layer)
    size = prod(rest)
    return (4 if size > WIDE else 8) * groups_of(layer) * size**2


def measurable(layer: nn.Module) -> bool:
    """Do the moments of a layer's inputs, or patches that stand for them, fit into memory?"""
    return type(layer) is nn.Linear or moment_bytes(layer) <= MOST_CONV_BYTES


def _held_bytes(layer: nn.Module) -> int:
    size = 0 if is_table(layer) else moment_bytes(layer)
    by_rows = type(layer) is nn.Linear and size > MOST_MATRIX_BYTES
    return 4 * MOST_ROWS * kernel_shape(layer)[1] if by_rows else size


def in_passes(layers: Mapping[str, nn.Module], most_bytes: int = MOST_BYTES) -> Iterator[tuple[str, ...]]:
    """The names of ``layers`` in runs whose moments take at most ``most_bytes`` together (one layer always fits)."""
    taken, names = 0, list[str]()
    for name, layer in layers.items():
        more = _held_bytes(layer)
        if names and taken + more > most_bytes:
            yield tuple(names)
            taken, names = 0, []
        taken, names = taken + more, [*names, name]
    if names:
        yield tuple(names)


def collect(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> dict[str, Moments | FewMoments]:
    """The moments of the inputs to each of the layers ``names`` while ``model`` runs on ``inputs``.

    What is only padding does not count (``models.masks``). Linear layers that are given one and the same tensor one
    after the other, as queries, keys and values are, share one value.

    Raises:
        ModelError: a layer is given numbers that are not finite.
    """
    found, apart = _collected(model, inputs, names, Twins())
    if apart:  # they were not given the same all the time
        found |= _collected(model, inputs, apart, None)[0]
    return {name: found[name] for name in names if name in found}


def _collected(
    model: nn.Module, inputs: Inputs, names: Sequence[str], twins: Twins | None
) -> tuple[dict[str, Moments | FewMoments], list[str]]:
    """Moments by name, and the names of those that have none because their twins were given something else."""
    count = len(inputs[0])
    sums: dict[str, _Sums | _Rows] = {}
    mask: Tensor | None = None

    def begun(call: Call) -> None:
        if twins is not None and twins.shares(call):
            return
        with naming_shortage(f"{call.name}: the moments of its inputs", without(call.name)):
            if call.name not in sums:
                sums[call.name] = _sums_of(call, count)
            sums[call.name].add(call.given, mask)

    size = inputs_at_once(model, inputs)
    with evaluating(model), torch.no_grad(), observing(named_layers(model, names), before=begun):
        for part in in_parts(inputs, size):
            mask = counted(model, part)
            calibrated(model, part)
    found = {name: sums[name].moments(name) for name in names if name in sums and sums[name].count}
    of = twins.of if twins is not None else {}
    apart = [name for name in of if twins is not None and not twins.alike(name)]
    return found | {name: found[of[name]] for name in of if name not in apart and of[name] in found}, apart


def _sums_of(call: Call, inputs: int) -> _Sums | _Rows:
    """Products of wide patches where there are enough of them, else the patches."""
    (_, size, *rest), given = kernel_shape(call.layer), call.given
    count = given.numel() // max(1, size) // len(given) * inputs
    if not rest and size > MOST_MATRIX and count < size:
        return _Rows(inputs, 1)
    if not rest and moment_bytes(call.layer) > MOST_MATRIX_BYTES:
        return _Rows(inputs, ceil(count / MOST_ROWS))
    return _Sums(call.layer, inputs)


class _Rows:
    """Patches of a Linear layer whose inputs are longer than they are many, or one of every ``apart``."""

    def __init__(self, inputs: int, apart: int) -> None:
        self.apart = apart
        self.at_once, self.parts, self.inputs = ceil(inputs / GROUPS), list[Tensor](), list[int]()

    @property
    def count(self) -> int:
        return sum(map(len, self.parts))

    def add(self, given: Tensor, mask: Tensor | None = None) -> None:
        for part, rows in counted_parts(given, mask, self.at_once):
            self.parts.append(rows.detach().reshape(-1, part.shape[-1])[:: self.apart].cpu())
            self.inputs.append(len(part))

    def moments(self, name: str) -> FewMoments:
        rows = torch.cat(self.parts)
        if not bool(torch.isfinite(rows).all()):
            raise ModelError(f"{name}: is given NaN or infinity on the calibration inputs; check data and weights")
        mean = rows.mean(0, dtype=torch.float64)
        rows = rows - mean.to(rows.dtype)
        alike, spread, start = rows @ rows.T, Spread(1), 0
        for part, inputs in zip(self.parts, self.inputs, strict=True):
            block = slice(start, start + len(part))
            spread.add(alike[None, block, block], len(part), inputs)
            start += len(part)
        return FewMoments(rows, mean[None], len(rows), spread.noise(alike[None] / len(rows)))


class _Sums:
    """Running sums of one layer about a mean that the first inputs give; float32 products, summed up in float64."""

    def __init__(self, layer: nn.Module, inputs: int) -> None:
        self.layer, self.count, self.seen, self.inputs = layer, 0, 0, inputs
        groups, (_, *rest) = groups_of(layer), kernel_shape(layer)
        self.most = positions_at_most(layer, inputs)
        dtype = torch.float32 if prod(rest) > WIDE else torch.float64
        self.second = torch.zeros(groups, prod(rest), prod(rest), dtype=dtype)
        self.mean = torch.zeros(groups, prod(rest), dtype=torch.float64)
        self.pivot: Tensor | None = None
        self.spread = Spread(groups)

    def add(self, given: Tensor, mask: Tensor | None = None) -> None:
        groups = GROUPS if self.second.shape[-1] <= WIDE else GROUPS // 2  # a sum of wide products costs as they do
        at_once = min(images_at_once(self.layer, given), ceil(self.inputs / groups))
        parts = list(counted_parts(given, mask, at_once))
        if self.pivot is None and parts:
            means = [self._patches(rows).mean(2, dtype=torch.float64) * len(part) for part, rows in parts]
            self.pivot = (torch.stack(means).sum(0) / sum(len(part) for part, _ in parts)).to(given.dtype)
        for part, rows in parts:
            self._add(self._patches(rows), len(part))
        self.seen += 1

    def _patches(self, part: Tensor) -> Tensor:
        return patches(self.layer, part, offset=self.seen, most=self.most)

    def _add(self, rows: Tensor, inputs: int) -> None:
        assert self.pivot is not None
        (exact,) = summable(rows - self.pivot[:, :, None])
        if exact.shape[2] < exact.shape[1] > WIDE:
            add_products(self.second, exact)
            self.spread.add(exact.mT @ exact, exact.shape[2], inputs)  # of the same norm
        else:
            product = products(exact).cpu()
            self.second += product
            self.spread.add(product, exact.shape[2], inputs)
        self.mean += exact.sum(2, dtype=torch.float64).cpu()
        self.count += exact.shape[2]

    def moments(self, name: str) -> Moments:
        if not bool(torch.isfinite(self.second).all()):
            raise ModelError(f"{name}: is given NaN or infinity on the calibration inputs; check data and weights")
        assert self.pivot is not None
        second, off = mirrored(self.second).div_(self.count), self.mean / self.count
        noise = self.spread.noise(second)
        for matrix, own in zip(second, off.to(second.dtype), strict=True):
            matrix.addr_(own, own, alpha=-1)
        return Moments(second, self.pivot.double().cpu() + off, self.count, noise)


def positions_at_most(layer: nn.Module, inputs: int, most: float = MOST_PRODUCTS, least: float = PATCHES) -> int:
    """Positions of an input that are taken: as many as ``most`` products and ``least`` patches for all inputs allow."""
    _, *rest = kernel_shape(layer)
    size = prod(rest)
    wanted = max(most / (groups_of(layer) * size**2), least * size)
    return max(1, min(MOST_POSITIONS, ceil(wanted / inputs)))
