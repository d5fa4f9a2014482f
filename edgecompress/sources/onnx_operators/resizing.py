"""Resize: by PyTorch's own interpolation where it gives the same numbers, else by a matrix along each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import Node, Operator, axes_of

NAMES = {
    ("linear", 3): "linear",
    ("linear", 4): "bilinear",
    ("linear", 5): "trilinear",
    ("cubic", 4): "bicubic",
}
"""Modes of PyTorch, by those of ONNX and the rank."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis that changes: its sizes, the scale that is asked for, and the part of it that is taken."""

    number: int
    size: int
    wanted: int
    scale: float
    part: tuple[float, float] = (0.0, 1.0)


def _resize(
    node: Node,
    data: Tensor,
    part: Any = None,
    scales: Sequence[float] | None = None,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    axes = _axes(node, data, part, scales, sizes)
    if node.get("mode", "nearest") == "nearest" and not _crops(node):
        return _nearest(node, data, axes)
    same = _by_torch(node, data, axes)
    if same is not None:
        return same
    result, outside = data, None
    for axis in axes:
        places = _places(node, axis)
        matrix = torch.stack([_row(node, axis, float(place)) for place in places]).to(data.dtype)
        result = torch.tensordot(result, matrix, dims=([axis.number], [1])).movedim(-1, axis.number)
        beyond = ((places < 0) | (places > axis.size - 1)).reshape(
            [-1 if n == axis.number else 1 for n in range(data.dim())]
        )
        outside = beyond if outside is None else outside | beyond
    if _crops(node) and outside is not None:
        return torch.where(outside, torch.full_like(result, node.get("extrapolation_value", 0.0)), result)
    return result


def _crops(node: Node) -> bool:
    return bool(node.get("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize")


def _axes(node: Node, data: Tensor, part: Any, scales: Any, sizes: Any) -> list[Axis]:
    """The axes that change, for scales or sizes of all axes or of those that are named."""
    numbers = axes_of(node, None, data.dim()) or list(range(data.dim()))
    owned = [int(data.shape[number]) for number in numbers]
    if sizes:
        factors, wanted = _by_sizes(node, owned, sizes)
    else:
        factors = list(scales)
        wanted = [math.floor(size * factor) for size, factor in zip(owned, factors, strict=True)]
    count = len(numbers)
    parts = [(part[i], part[i + count]) for i in range(count)] if part and _crops(node) else [(0.0, 1.0)] * count
    found = [Axis(*each) for each in zip(numbers, owned, wanted, factors, parts, strict=True)]
    return [axis for axis in found if axis.size != axis.wanted or axis.scale != 1 or axis.part != (0.0, 1.0)]


def _by_sizes(node: Node, owned: Sequence[int], sizes: Sequence[int]) -> tuple[list[float], list[int]]:
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    factors = [wanted / size for wanted, size in zip(sizes, owned, strict=True)]
    if policy == "stretch":
        return factors, list(sizes)
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(factors), [math.floor(factor * size + 0.5) for size in owned]


def _places(node: Node, axis: Axis) -> Tensor:
    """Where each output lies in the input, (wanted,)."""
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    steps, length = torch.arange(axis.wanted, dtype=torch.float64), axis.scale * axis.size
    half = (steps + 0.5) / axis.scale - 0.5
    if mode == "align_corners":
        return steps * ((axis.size - 1) / (length - 1)) if length != 1 else steps * 0
    if mode == "asymmetric":
        return steps / axis.scale
    if mode == "tf_crop_and_resize":
        return _cropped(axis, steps, length)
    if mode == "pytorch_half_pixel" and axis.wanted == 1:
        return steps * 0 - 0.5
    if mode == "half_pixel_symmetric":
        return half + axis.size / 2 * (1 - axis.wanted / length)
    return half


def _cropped(axis: Axis, steps: Tensor, length: float) -> Tensor:
    first, last = axis.part
    reach = (last - first) * (axis.size - 1)
    inner = steps * reach / (length - 1) if length != 1 else steps * 0 + reach / 2
    return inner + first * (axis.size - 1)


def _nearest(node: Node, data: Tensor, axes: Sequence[Axis]) -> Tensor:
    chosen = {axis.number: _rounded(node, _places(node, axis)).clamp(0, axis.size - 1).long() for axis in axes}
    own = {axis.number: torch.arange(axis.wanted) * axis.size // axis.wanted for axis in axes}
    spatial = data.dim() in (3, 4, 5) and min(chosen, default=2) > 1 and data.is_floating_point()
    if spatial and axes and all(torch.equal(chosen[number], own[number]) for number in chosen):
        wanted = {axis.number: axis.wanted for axis in axes}
        return functional.interpolate(data, [wanted.get(n, int(data.shape[n])) for n in range(2, data.dim())])
    for number, places in chosen.items():
        data = data.index_select(number, places)
    return data


def _rounded(node: Node, places: Tensor) -> Tensor:
    mode = node.get("nearest_mode", "round_prefer_floor")
    if mode == "floor":
        return places.floor()
    if mode == "ceil":
        return places.ceil()
    return (places - 0.5).ceil() if mode == "round_prefer_floor" else (places + 0.5).floor()


def _by_torch(node: Node, data: Tensor, axes: Sequence[Axis]) -> Tensor | None:
    """By ``interpolate``, where it does the same."""
    mode, place = node.get("mode"), node.get("coordinate_transformation_mode", "half_pixel")
    name = NAMES.get((mode, data.dim()))
    spatial = bool(axes) and min(axis.number for axis in axes) > 1 and data.dtype == torch.float32
    exact = all(axis.scale * axis.size == axis.wanted > 1 for axis in axes)
    special = node.get("antialias", 0) or node.get("exclude_outside", 0) or node.get("cubic_coeff_a", -0.75) != -0.75
    known = place in ("half_pixel", "pytorch_half_pixel", "align_corners")
    if name is None or not (spatial and exact and known) or special:
        return None
    wanted = {axis.number: axis.wanted for axis in axes}
    size = [wanted.get(number, int(data.shape[number])) for number in range(2, data.dim())]
    return functional.interpolate(data, size, mode=name, align_corners=place == "align_corners")


def _row(node: Node, axis: Axis, place: float) -> Tensor:
    """What each of the axis' numbers counts for at ``place``, (size,)."""
    base = math.floor(place)
    scale = min(axis.scale, 1.0) if node.get("antialias", 0) else 1.0
    linear = node.get("mode") == "linear"
    reach = 1 if linear else 2
    first = math.floor(-reach / scale) + 1
    taps = torch.arange(base + first, base + reach + 1 - first - (reach - 1), dtype=torch.float64)
    distance = ((taps - place) * scale).abs()
    weights = (1 - distance).clamp_min(0) if linear else _cubic(distance, node.get("cubic_coeff_a", -0.75))
    if node.get("exclude_outside", 0):
        weights = torch.where((taps < 0) | (taps > axis.size - 1), torch.zeros_like(weights), weights)
    row = torch.zeros(axis.size, dtype=torch.float64)
    return row.index_add(0, taps.clamp(0, axis.size - 1).long(), weights / weights.sum())


def _cubic(distance: Tensor, sharpness: float) -> Tensor:
    """The kernel of Keys (1981)."""
    near = ((sharpness + 2) * distance - (sharpness + 3)) * distance.square() + 1
    far = ((sharpness * distance - 5 * sharpness) * distance + 8 * sharpness) * distance - 4 * sharpness
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


OPERATORS = {"Resize": Operator(_resize, known=(1, 2, 3))}
