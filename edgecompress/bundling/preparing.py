"""An image of bytes as a model's input, in numpy: what the core class of every platform does in its own language."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgecompress.manifests import Input, Preprocessing

Array = np.ndarray[Any, Any]
LUMA = (19595, 38470, 7471)
"""Shares of red, green and blue in gray, in 65,536ths (ITU-R BT.601)."""


def prepare(pixels: Array, taking: Input, size: tuple[int, int] | None = None) -> Array:
    """One image, uint8 (H, W) or (H, W, 1, 3 or 4), as ``taking`` wants it: float32, with a batch of one.

    In double precision from the bytes on and rounded once, so that any language comes within 1e-6; an alpha channel is
    dropped. ``size`` stands in for the input's own.

    Raises:
        ValueError: the input takes no image, or has a size that is not resized to.
    """
    steps = taking.preprocessing
    if steps is None:
        raise ValueError(f"{taking.name}: takes no image")
    image = resized(_in_color(np.atleast_3d(pixels), steps), size or steps.size, steps)
    image = (image * steps.scale - np.array(steps.mean)) / np.array(steps.std)
    laid = image if taking.layout == "NHWC" else image.transpose(2, 0, 1)
    return np.ascontiguousarray(laid[None], np.float32)


def _in_color(image: Array, steps: Preprocessing) -> Array:
    """Bytes of the channels that are wanted, as doubles."""
    image = image[:, :, :3].astype(np.int64)
    if steps.color == "gray":
        image = image if image.shape[2] == 1 else (image @ np.array(LUMA) + 32768)[:, :, None] >> 16
    elif image.shape[2] == 1:
        image = image.repeat(3, axis=2)
    return (image[:, :, ::-1] if steps.color == "BGR" else image).astype(np.float64)


def resized(image: Array, size: tuple[int, int], steps: Preprocessing) -> Array:
    """An image (H, W, C) of doubles in another size (height, width).

    Raises:
        ValueError: it has another size and is not to be resized.
    """
    given = image.shape[:2]
    if steps.resize == "none":
        if given != size:
            raise ValueError(f"the image is {given[0]} x {given[1]}, the model takes {size[0]} x {size[1]}")
        return image
    part: tuple[float, float] = given
    if steps.resize == "centre-crop":
        factor = min(given[0] / size[0], given[1] / size[1])
        part = (size[0] * factor, size[1] * factor)
    rows, columns = (
        _weights(whole, one, wanted, nearest=steps.interpolation == "nearest")
        for whole, one, wanted in zip(given, part, size, strict=True)
    )
    found: Array = np.einsum("ih,hwc,jw->ijc", rows, image, columns, optimize=True)
    return found


def _weights(whole: int, part: float, wanted: int, *, nearest: bool) -> Array:
    """How much each of ``whole`` pixels of a side counts for each of ``wanted``, which span ``part`` in its middle."""
    step = part / wanted
    centres = (whole - part) / 2 + (np.arange(wanted) + 0.5) * step
    if nearest:
        one: Array = np.eye(whole)[np.clip(np.floor(centres).astype(int), 0, whole - 1)]
        return one
    apart = np.abs(np.arange(whole) + 0.5 - centres[:, None])
    weights = np.maximum(0, 1 - apart / max(step, 1.0))
    found: Array = weights / weights.sum(1, keepdims=True)
    return found
