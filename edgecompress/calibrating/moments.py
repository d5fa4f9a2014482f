"""Second moments of what a layer is given: the metric in which its outputs are approximated.

A convolution is a product of its weight with im2col patches u of its input, (D,) = (C / groups * taps) in the order of
its kernel. Collected here in one streaming pass over calibration inputs: the sum of u u^T and of u over images and
positions, 8 D^2 bytes a group. The largest networks take several passes, so that at most ``MOST_BYTES`` are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from edgecompress.decompositions.base import Conv, is_conv, is_transposed
from edgecompress.decompositions.kernels import groups_of, kernel_shape
from edgecompress.errors import ModelError
from edgecompress.models import Call, calibrated, evaluating, named_layers, observing
from edgecompress.models.datasets import Inputs, in_parts

MOST_BYTES = 1 << 30
"""Of moments in memory at once."""

LEAST_SQUARES, MOST_SQUARES = 1e-25, 1e30
"""Sums of squares that float32 holds, products of two rows included."""

LEAST_SPREAD = 1e-3
"""Of the mean square, about the mean: less is lost among float32's seven digits."""

STEADY = 1e-10
"""A spread below this share of the squared mean is rounding: the inputs do not vary."""

MOST_POSITIONS = 256
"""Of an image's output positions, spread evenly with another offset each batch: neighbours tell much the same."""

BATCH = 64
MOST_PATCH_BYTES = 1 << 26
"""Of patches unfolded at once."""


RIDGE = 1e-3
"""Share of the mean second moment that is added to all directions of the inputs: few inputs do not span them."""


@dataclass(frozen=True)
class Moments:
    """``second`` (groups, D, D) and ``mean`` (groups, D): averages of u u^T and u over ``count`` patches, float64."""

    second: Tensor
    mean: Tensor
    count: int

    def spread(self) -> Tensor:
        """(groups, D, D): second moments about the mean."""
        return self.second - self.mean[:, :, None] * self.mean[:, None]

    def steady(self) -> Tensor:
        """(groups,): is a group given the same numbers all the time, so that inputs tell nothing of its errors?"""
        return ~(mean_diagonal(self.spread()) > STEADY * self.mean.square().mean(1))

    @cached_property
    def centred(self) -> Tensor:
        """Second moments (groups, D, D) about the mean, damped; what the mean adds to an error is corrected.

        A group whose inputs do not vary counts as one whose inputs vary alike in all directions, as little as the
        damping.
        """
        second, steady = self.spread(), self.steady()
        mean = mean_diagonal(second)
        usual = float(mean[~steady].max()) if not steady.all() else 1.0
        own = RIDGE * torch.where(steady, usual, mean)[:, None, None] * torch.eye(second.shape[-1], dtype=second.dtype)
        return torch.where(steady[:, None, None], own, second + own)


def mean_diagonal(stacked: Tensor) -> Tensor:
    """(groups,) of (groups, D, D)."""
    return stacked.diagonal(dim1=1, dim2=2).mean(1)


def moment_bytes(layer: nn.Module) -> int:
    """Bytes that the second moments of a layer take."""
    _, *rest = kernel_shape(layer)
    return 8 * groups_of(layer) * prod(rest) ** 2


def in_passes(layers: Mapping[str, nn.Module], most_bytes: int = MOST_BYTES) -> Iterator[tuple[str, ...]]:
    """The names of ``layers`` in runs whose moments take at most ``most_bytes`` together (one layer always fits)."""
    taken, names = 0, list[str]()
    for name, layer in layers.items():
        more = moment_bytes(layer)
        if names and taken + more > most_bytes:
            yield tuple(names)
            taken, names = 0, []
        taken, names = taken + more, [*names, name]
    if names:
        yield tuple(names)


def collect(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> dict[str, Moments]:
    """The moments of the inputs to each of the layers ``names`` while ``model`` runs on ``inputs``.

    Raises:
        ModelError: a layer is given numbers that are not finite.
    """
    sums = {name: _Sums(model.get_submodule(name)) for name in names}

    def begun(call: Call) -> None:
        sums[call.name].add(call.given)

    with evaluating(model), torch.no_grad(), observing(named_layers(model, names), before=begun):
        for part in in_parts(inputs, BATCH):
            calibrated(model, part)
    return {name: of_layer.moments(name) for name, of_layer in sums.items() if of_layer.count}


class _Sums:
    """Running sums of one layer; float32 products of a batch, summed up in float64."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer, self.count, self.seen = layer, 0, 0
        groups, (_, *rest) = groups_of(layer), kernel_shape(layer)
        self.second = torch.zeros(groups, prod(rest), prod(rest), dtype=torch.float64)
        self.mean = torch.zeros(groups, prod(rest), dtype=torch.float64)

    def add(self, given: Tensor) -> None:
        for rows in sampled_patches(self.layer, given, images_at_once(self.layer, given), self.seen):
            (exact,) = summable(rows)
            self.second += (exact @ exact.mT).double().cpu()
            self.mean += exact.sum(2).double().cpu()
            self.count += exact.shape[2]
        self.seen += 1

    def moments(self, name: str) -> Moments:
        if not bool(torch.isfinite(self.second).all()):
            raise ModelError(f"{name}: is given NaN or infinity on the calibration inputs; check data and weights")
        return Moments(self.second / self.count, self.mean / self.count, self.count)


def summable(*rows: Tensor) -> tuple[Tensor, ...]:
    """Each of ``rows`` (groups, S, n) as it is, or all in float64 where sums of products would not fit into float32.

    They overflow, vanish, or lose the spread about a mean far larger than it.
    """
    return rows if all(map(_fits, rows)) else tuple(of.double() for of in rows)


def _fits(rows: Tensor) -> bool:
    """Do sums of products of ``rows`` (groups, S, n) fit into their dtype?"""
    squares, sums = float(rows.square().sum()), rows.sum(2)
    offset = float(sums.square().sum()) / rows.shape[2]
    return LEAST_SQUARES < squares < MOST_SQUARES and offset < (1 - LEAST_SPREAD) * squares


def images_at_once(layer: nn.Module, given: Tensor) -> int:
    """So many inputs that their patches take at most ``MOST_PATCH_BYTES``."""
    _, *rest = kernel_shape(layer)
    return max(1, MOST_PATCH_BYTES // max(1, 4 * prod(rest[1:]) * given[0].numel()))


def sampled_patches(layer: nn.Module, given: Tensor, at_once: int, seen: int = 0) -> Iterator[Tensor]:
    """:func:`patches` of ``at_once`` inputs at a time, each at positions of their own."""
    for index, part in enumerate(torch.split(given, at_once)):
        yield patches(layer, part, offset=seen + index)


def sampled_outputs(layer: nn.Module, output: Tensor, at_once: int) -> Tensor:
    """(groups, T, n): the outputs at the positions of :func:`sampled_patches`, in their order."""
    parts = enumerate(torch.split(output, at_once))
    return torch.cat([output_rows(layer, part, offset=index) for index, part in parts], 2)


def patches(layer: nn.Module, given: Tensor, *, offset: int = 0, most: int = MOST_POSITIONS) -> Tensor:
    """(groups, D, n): the im2col patches of a batch, at about ``most`` positions of each input.

    The weight of ``layer`` as kernels (groups, T, D) times these gives its outputs at these positions, without bias.
    """
    if not is_conv(layer):
        return given.reshape(-1, given.shape[-1]).T.unsqueeze(0)
    # A transposed convolution is a plain one over its input spread out by its stride, with the kernel mirrored.
    transposed = is_transposed(layer)
    padded = _spread(layer, given) if transposed else _padded(layer, given)
    strides = [1] * len(layer.kernel_size) if transposed else layer.stride
    lengths = [
        (size - step * (taps - 1) - 1) // stride + 1
        for size, step, taps, stride in zip(padded.shape[2:], layer.dilation, layer.kernel_size, strides, strict=True)
    ]
    chosen = _positions(lengths, offset, most)
    # unfold() has no positions left out and no 1D or dilated 1D form: one strided window for each tap does. Output
    # position p reads input p * stride + tap * dilation, so that a range of positions is a slice of the input.
    rows = []
    for tap in product(*(range(taps) for taps in layer.kernel_size)):
        at = [taps - 1 - t for t, taps in zip(tap, layer.kernel_size, strict=True)] if transposed else tap
        window = [
            slice(t * step + p.start * stride, t * step + (p[-1]) * stride + 1, p.step * stride)
            for t, step, stride, p in zip(at, layer.dilation, strides, chosen, strict=True)
        ]
        rows.append(padded[:, :, *window].transpose(0, 1).flatten(1))
    # (C, taps, n): the channels of a group lie together, each with its taps, as in a kernel
    return torch.stack(rows, 1).reshape(layer.groups, -1, rows[0].shape[1])


def output_rows(layer: nn.Module, output: Tensor, *, offset: int = 0, most: int = MOST_POSITIONS) -> Tensor:
    """(groups, T, n): a layer's outputs at the positions that :func:`patches` takes."""
    if not is_conv(layer):
        return output.reshape(-1, output.shape[-1]).T.unsqueeze(0)
    chosen = _positions(output.shape[2:], offset, most)
    window = [slice(p.start, p.stop, p.step) for p in chosen]
    return output[:, :, *window].transpose(0, 1).reshape(layer.groups, output.shape[1] // layer.groups, -1)


def _positions(lengths: Sequence[int], offset: int, most: int) -> list[range]:
    """Every so many positions along each axis, so that about ``most`` are left; ``offset`` counts the shifts."""
    apart = ceil((prod(lengths) / most) ** (1 / len(lengths)) - 1e-9)
    chosen = []
    for length in lengths:
        step = max(1, min(apart, length))
        chosen.append(range(offset % step, length, step))
        offset //= step
    return chosen


def _padded(layer: Conv, given: Tensor) -> Tensor:
    """The input with the layer's own padding around it."""
    axes = range(len(layer.kernel_size))
    if layer.padding == "same":
        reach = [layer.dilation[axis] * (layer.kernel_size[axis] - 1) for axis in axes]
        sides = [(total // 2, total - total // 2) for total in reach]
    else:
        sides = [(0, 0) if isinstance(layer.padding, str) else (layer.padding[axis],) * 2 for axis in axes]
    widths = [width for pair in reversed(sides) for width in pair]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return pad(given, widths, mode=mode) if any(widths) else given


def _spread(layer: Conv, given: Tensor) -> Tensor:
    """The input of a transposed convolution as the padded input of a plain one: zeros between and around."""
    assert isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    assert not isinstance(layer.padding, str)
    lengths = [(size - 1) * step + 1 for size, step in zip(given.shape[2:], layer.stride, strict=True)]
    spread = given.new_zeros(*given.shape[:2], *lengths)
    spread[:, :, *(slice(None, None, step) for step in layer.stride)] = given
    sides = [
        (around := layer.dilation[axis] * (layer.kernel_size[axis] - 1) - layer.padding[axis],
         around + layer.output_padding[axis])
        for axis in range(len(lengths))
    ]  # fmt: skip
    return pad(spread, [width for pair in reversed(sides) for width in pair])
