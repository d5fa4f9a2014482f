"""Iterating over a dataset in batches, in a given order.

A dataset is anything with ``__len__`` and ``__getitem__`` giving ``(input, target)``. One that also has
``batch(indices: Tensor) -> (inputs, targets)`` is asked for whole batches at once, which is much faster for
small images held in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

Batch = tuple[Tensor, Tensor]


def size(dataset: Dataset[Any]) -> int:
    """Number of items."""
    return len(dataset)  # type: ignore[arg-type]


def take(dataset: Dataset[Any], indices: Tensor) -> Batch:
    """The items at ``indices`` as one batch of inputs and targets."""
    if hasattr(dataset, "batch"):
        inputs, targets = dataset.batch(indices)
    elif isinstance(dataset, TensorDataset):
        inputs, targets = dataset[indices]
    else:
        inputs, targets = default_collate([dataset[int(index)] for index in indices])
    return inputs, targets


def batches(dataset: Dataset[Any], batch_size: int, order: Tensor | None = None) -> Iterator[Batch]:
    """Batches over the whole dataset, or over ``order`` (indices) if given; the last may be smaller."""
    order = torch.arange(size(dataset)) if order is None else order
    for indices in torch.split(order, batch_size):
        yield take(dataset, indices)


def origin(dataset: Dataset[Any]) -> str:
    """Where the data comes from, in words, for reports."""
    return str(getattr(dataset, "origin", type(dataset).__name__))


def calibration_inputs(dataset: Dataset[Any], count: int, seed: int) -> Tensor:
    """``count`` inputs drawn without replacement, without their targets."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(size(dataset), generator=generator)[:count]
    return take(dataset, chosen)[0]
