"""Outputs of a model and of its file as arrays, and how far they are apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from edgecompress.artifacts import SQNR_OF_EQUAL_DB, Arrays, Parity, TensorSpec
from edgecompress.errors import ExportError
from edgecompress.models import as_outputs
from edgecompress.models.datasets import Inputs, in_batches
from edgecompress.targets.base import Run, in_layout

Array = np.ndarray[Any, Any]
WHOLE = "biu"
"""Kinds of dtypes whose values are compared one by one: true or not, and whole numbers."""


def run_model(model: nn.Module, inputs: Inputs) -> list[Array]:
    """PyTorch's outputs as arrays; a model may write into its inputs, so that it gets copies."""
    with torch.no_grad():
        outputs = as_outputs(model(*(tensor.clone() for tensor in inputs)))
    return [output.numpy() for output in outputs]


def run_in_batches(model: nn.Module, inputs: Inputs, batch: int | None) -> list[Array]:
    """The same in batches of one size; None: in one."""
    if batch is None:
        return run_model(model, inputs)
    parts = [run_model(model, part) for part in in_batches(inputs, batch)]
    return [_joined(side, batch, len(inputs[0])) for side in zip(*parts, strict=True)]


def as_feed(specs: tuple[TensorSpec, ...], inputs: Inputs) -> Arrays:
    """Tensors as named arrays, in the layout and, for whole numbers, in the dtype that the file takes.

    Raises:
        ExportError: a whole number is too large for the file's dtype.
    """
    return {
        spec.name: _cast(in_layout(tensor, spec.layout).numpy(), spec)
        for spec, tensor in zip(specs, inputs, strict=True)
    }


def _cast(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind not in WHOLE or array.dtype == spec.dtype or np.dtype(spec.dtype).kind not in WHOLE:
        return array
    cast: Array = array.astype(spec.dtype)
    if not np.array_equal(cast, array):
        raise ExportError(f"{spec.name}: the file takes {spec.dtype}, which cannot hold {array.max()}")
    return cast


def run_rows(run: Run, specs: tuple[TensorSpec, ...], feed: Arrays) -> Arrays:
    """Run a batch of any size; in parts where the file takes batches of one size, the last filled up with its last row.

    An output that has not as many rows as the parts does not depend on the items, and is that of the first part.
    """
    count, size = len(next(iter(feed.values()))), specs[0].shape[0]
    if not isinstance(size, int) or count == size:
        return run(feed)
    rows = (np.minimum(np.arange(start, start + size), count - 1) for start in range(0, count, size))
    each = [run({name: array[part] for name, array in feed.items()}) for part in rows]
    return {name: _joined([found[name] for found in each], size, count) for name in each[0]}


def _joined(parts: Sequence[Array], size: int, count: int) -> Array:
    return np.concatenate(parts)[:count] if parts[0].shape[:1] == (size,) else parts[0]


def compare(batch: int, expected: Sequence[Array], found: Sequence[Array]) -> Parity:
    """The output that is worst in proportion to its own scale; infinite error where shapes, dtypes or counts differ."""
    if not alike(expected, found):
        return Parity(batch, math.inf, -math.inf, 0.0)
    each = [_compare_one(batch, ours, theirs) for ours, theirs in zip(expected, found, strict=True)]
    return max(each, key=lambda parity: parity.max_abs_error / parity.scale)


def alike(expected: Sequence[Array], found: Sequence[Array]) -> bool:
    """Whether outputs are as many, of the same shapes and of dtypes that hold the same values.

    Whole numbers may come in another dtype: a format may know int32 alone, or floats alone.
    """
    return len(expected) == len(found) and all(
        ours.shape == theirs.shape and (ours.dtype == theirs.dtype or ours.dtype.kind in WHOLE)
        for ours, theirs in zip(expected, found, strict=True)
    )


def _compare_one(batch: int, expected: Array, found: Array) -> Parity:
    """Of whole numbers, the share that differs: labels and indices are near to nothing but themselves.

    Infinities and NaN are equal to themselves; an output that is nothing but NaN proves nothing.
    """
    signal, other = (side.astype(np.float64).ravel() for side in (expected, found))
    same = (signal == other) | (np.isnan(signal) & np.isnan(other))
    if expected.dtype.kind in WHOLE:
        share = 1 - float(same.mean()) if same.size else 0.0
        return Parity(batch, share, SQNR_OF_EQUAL_DB if share == 0 else -10 * math.log10(share), 1.0)
    error = np.subtract(other, signal, out=np.zeros_like(signal), where=~same)
    if not np.isfinite(error).all() or (signal.size and np.isnan(signal).all()):
        return Parity(batch, math.inf, -math.inf, 1.0)
    signal = np.where(np.isfinite(signal), signal, 0)
    energy, wrong = float(np.square(signal).sum()), float(np.square(error).sum())
    sqnr = 10 * math.log10(max(energy, 1e-30) / wrong) if wrong else SQNR_OF_EQUAL_DB
    scale = max(float(np.abs(signal).max(initial=0)), 1e-6)
    return Parity(batch, float(np.abs(error).max(initial=0)), sqnr, scale)
