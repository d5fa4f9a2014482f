"""Resize: by PyTorch's own interpolation where it gives the same numbers, else by a matrix along each axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import Node, Operator, axes_of

Array = np.ndarray[Any, np.dtype[Any]]
"""Places are computed by NumPy: what is chosen by them has to be known while a model is traced."""
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
        rows = [_row(node, axis, float(place)).tolist() for place in places]
        matrix = torch.tensor(rows, dtype=torch.float64).to(data.dtype)
        result = torch.tensordot(result, matrix, dims=([axis.number], [1])).movedim(-1, axis.number)
        shape = [-1 if n == axis.number else 1 for n in range(data.dim())]
        beyond = torch.tensor(((places < 0) | (places > axis.size - 1)).tolist()).reshape(shape)
        outside = beyond if outside is None else outside | beyond
    if _crops(node) and outside is not None:
        return torch.where(outside, torch.full_like(result, node.get("extrapolation_value", 0.0)), result)
    return result


def _crops(node: Node) -> bool:
    return bool(node.get("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize")


def _axes(node: Node, data: Tensor, part: Any, scales: Any, sizes: Any) -> list[Axis]:
    """The axes that change, for scales or sizes of all axes or of those that are named."""
    every = axes_of(node, None, data.dim()) or list(range(data.dim()))
    kept = [index for index, number in enumerate(every) if not isinstance(data.shape[number], torch.SymInt)]
    numbers, count = [every[index] for index in kept], len(every)  # a batch of any size is not resized
    owned = [int(data.shape[number]) for number in numbers]
    if sizes:
        factors, wanted = _by_sizes(node, owned, [sizes[index] for index in kept])
    else:
        factors = [scales[index] for index in kept]
        wanted = [math.floor(size * factor) for size, factor in zip(owned, factors, strict=True)]
    parts = [(part[i], part[i + count]) if part and _crops(node) else (0.0, 1.0) for i in kept]
    found = [Axis(*each) for each in zip(numbers, owned, wanted, factors, parts, strict=True)]
    return [axis for axis in found if axis.size != axis.wanted or axis.scale != 1 or axis.part != (0.0, 1.0)]


def _by_sizes(node: Node, owned: Sequence[int], sizes: Sequence[int]) -> tuple[list[float], list[int]]:
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    factors = [wanted / size for wanted, size in zip(sizes, owned, strict=True)]
    if policy == "stretch":
        return factors, list(sizes)
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [factor] * len(factors), [math.floor(factor * size + 0.5) for size in owned]


def _places(node: Node, axis: Axis) -> Array:
    """Where each output lies in the input, (wanted,)."""
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    steps, length = np.arange(axis.wanted, dtype=np.float64), axis.scale * axis.size
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


def _cropped(axis: Axis, steps: Array, length: float) -> Array:
    first, last = axis.part
    reach = (last - first) * (axis.size - 1)
    inner = steps * reach / (length - 1) if length != 1 else steps * 0 + reach / 2
    return inner + first * (axis.size - 1)


def _nearest(node: Node, data: Tensor, axes: Sequence[Axis]) -> Tensor:
    chosen = {axis.number: _rounded(node, _places(node, axis)).clip(0, axis.size - 1).astype(np.int64) for axis in axes}
    own = {axis.number: np.arange(axis.wanted) * axis.size // axis.wanted for axis in axes}
    spatial = data.dim() in (3, 4, 5) and min(chosen, default=2) > 1 and data.is_floating_point()
    if spatial and axes and all(np.array_equal(chosen[number], own[number]) for number in chosen):
        wanted = {axis.number: axis.wanted for axis in axes}
        return functional.interpolate(data, [wanted.get(n, int(data.shape[n])) for n in range(2, data.dim())])
    for number, places in chosen.items():
        data = data.index_select(number, torch.tensor(places.tolist(), dtype=torch.int64))
    return data


def _rounded(node: Node, places: Array) -> Array:
    mode = node.get("nearest_mode", "round_prefer_floor")
    if mode == "floor":
        return np.floor(places)
    if mode == "ceil":
        return np.ceil(places)
    return np.ceil(places - 0.5) if mode == "round_prefer_floor" else np.floor(places + 0.5)


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


def _row(node: Node, axis: Axis, place: float) -> Array:
    """What each of the axis' numbers counts for at ``place``, (size,)."""
    base = math.floor(place)
    scale = min(axis.scale, 1.0) if node.get("antialias", 0) else 1.0
    linear = node.get("mode") == "linear"
    reach = 1 if linear else 2
    first = math.floor(-reach / scale) + 1
    taps = np.arange(base + first, base + reach + 1 - first - (reach - 1), dtype=np.float64)
    distance = np.abs((taps - place) * scale)
    weights = (1 - distance).clip(0) if linear else _cubic(distance, node.get("cubic_coeff_a", -0.75))
    if node.get("exclude_outside", 0):
        weights = np.where((taps < 0) | (taps > axis.size - 1), 0, weights)
    row: Array = np.zeros(axis.size)
    np.add.at(row, taps.clip(0, axis.size - 1).astype(np.int64), weights / weights.sum())
    return row


def _cubic(distance: Array, sharpness: float) -> Array:
    """The kernel of Keys (1981)."""
    near = ((sharpness + 2) * distance - (sharpness + 3)) * distance**2 + 1
    far = ((sharpness * distance - 5 * sharpness) * distance + 8 * sharpness) * distance - 4 * sharpness
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))


OPERATORS = {"Resize": Operator(_resize, known=(1, 2, 3))}
