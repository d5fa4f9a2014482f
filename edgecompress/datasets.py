"""Iterating over a dataset in batches, in a given order.

A dataset is anything with ``__len__`` and ``__getitem__`` giving ``(input, target)``, where the input is a tensor or a
tuple of them. One that also has
``batch(indices: Tensor) -> (inputs, targets)`` is asked for whole batches at once, which is much faster for
small images held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

Inputs = tuple[Tensor, ...]
Batch = tuple[Inputs, Tensor]

FINGERPRINTED_ITEMS = 256


def size(dataset: Dataset[Any]) -> int:
    """Number of items."""
    return len(dataset)  # type: ignore[arg-type]


def as_inputs(inputs: Tensor | Sequence[Tensor]) -> Inputs:
    """One input tensor or several, as a tuple."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def take(dataset: Dataset[Any], indices: Tensor) -> Batch:
    """The items at ``indices`` as one batch: the inputs (one or several tensors) and the targets."""
    if hasattr(dataset, "batch"):
        inputs, targets = dataset.batch(indices)
    elif isinstance(dataset, TensorDataset):
        *inputs, targets = dataset[indices]
    else:
        inputs, targets = default_collate([dataset[int(index)] for index in indices])
    return as_inputs(inputs), targets


def batches(dataset: Dataset[Any], batch_size: int, order: Tensor | None = None) -> Iterator[Batch]:
    """Batches over the whole dataset, or over ``order`` (indices) if given; the last may be smaller."""
    order = torch.arange(size(dataset)) if order is None else order
    for indices in torch.split(order, batch_size):
        yield take(dataset, indices)


def first(inputs: Inputs, count: int) -> Inputs:
    """The first ``count`` of a batch, or all where there are fewer."""
    return tuple(tensor[:count] for tensor in inputs)


def in_parts(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """A batch in parts of ``size``; the last may be smaller."""
    yield from zip(*(torch.split(tensor, size) for tensor in inputs), strict=True)


def origin(dataset: Dataset[Any]) -> str:
    """Where the data comes from, in words, for reports."""
    return str(getattr(dataset, "origin", type(dataset).__name__))


def calibration_inputs(dataset: Dataset[Any], count: int, seed: int) -> Inputs:
    """``count`` inputs drawn without replacement, without their targets."""
    return take(dataset, _drawn(dataset, count, seed))[0]


def fingerprint(dataset: Dataset[Any], *, inputs_too: bool) -> str:
    """A digest of the number of items and of 256 items drawn with a fixed seed: their targets, and inputs if asked.

    A training set may give other inputs each time (random crops); its targets stay.
    """
    inputs, targets = take(dataset, _drawn(dataset, FINGERPRINTED_ITEMS, 0))
    digest = hashlib.sha256(str(size(dataset)).encode())
    for tensor in (targets, *(inputs if inputs_too else ())):
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> bytes:
    """A tensor's numbers as they lie in memory, for digests."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def _drawn(dataset: Dataset[Any], count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size(dataset), generator=generator)[:count]
