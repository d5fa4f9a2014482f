"""Which positions of a batch are padding, by the mask that the model is given: they are no data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import repeat

import torch
from torch import Tensor, nn

from edgecompress.models.datasets import Inputs

MASK = "attention_mask"
"""What the input is called that is 0 where there is only padding."""


def counted(model: nn.Module, inputs: Inputs) -> Tensor | None:
    """(N, positions) of ``inputs``, true where there is more than padding; None where nothing says so, or all is data.

    Args:
        model: whose ``forward`` has an argument of the name ``MASK``, (N, positions) of whole numbers.
        inputs: by position, as it is called with them.
    """
    names = list(inspect.signature(model.forward).parameters)
    at = names.index(MASK) if MASK in names else len(inputs)
    if at >= len(inputs) or not is_by_position(inputs[at]):
        return None
    mask = inputs[at] != 0
    return None if bool(mask.all()) else mask


def is_by_position(given: Tensor) -> bool:
    """Whether it is (N, positions) of whole numbers, as tokens and masks are."""
    return given.dim() == 2 and not given.is_floating_point()


def kept_rows(given: Tensor, mask: Tensor | None) -> Tensor:
    """Rows (n, D) of what a layer is given (N, positions, D) but those of padding; as it is where that is unknown."""
    if mask is None or given.dim() != 3 or given.shape[:2] != mask.shape:
        return given
    return given[mask.to(given.device)]


def without_padding(rows: Tensor, mask: Tensor | None) -> Tensor:
    """``rows`` (N, positions, D), zeros where there is only padding; as they are where that is unknown."""
    if mask is None or rows.dim() != 3 or rows.shape[:2] != mask.shape:
        return rows
    return rows * mask.to(rows).unsqueeze(-1)


def counted_parts(given: Tensor, mask: Tensor | None, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What a layer is given, ``size`` inputs at a time, and the rows of them that are no padding, if any."""
    masks = torch.split(mask, size) if mask is not None and len(mask) == len(given) else repeat(None)
    for part, of_part in zip(torch.split(given, size), masks, strict=False):
        rows = kept_rows(part, of_part)
        if len(rows):
            yield part, rows
