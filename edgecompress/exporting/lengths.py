"""Inputs that are rows of tokens, of which a file may take any number of positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from edgecompress.artifacts import TensorSpec
from edgecompress.models.datasets import Inputs


def length_of(inputs: Inputs) -> int | None:
    """Positions of inputs that are all whole numbers (N, positions), as tokens and their mask; None of others."""
    lengths = {tensor.shape[1] if tensor.dim() == 2 and tensor.dtype in (torch.int64, torch.int32) else 0
               for tensor in inputs}  # fmt: skip
    (length, *others) = lengths or {0}
    return length if length > 1 and not others else None


def at_length(inputs: Inputs, length: int) -> Inputs:
    """The first ``length`` positions, from the start again where there are fewer."""
    return tuple(tensor[:, torch.arange(length) % tensor.shape[1]] for tensor in inputs)


def other_length(length: int) -> int:
    """A number of positions that an example of ``length`` does not have, shorter where that can be."""
    return length // 2 + 1 if length > 2 else length + 1


def takes_any_length(specs: Sequence[TensorSpec]) -> bool:
    """Whether a file declares all of its inputs as (N, positions), the second free."""
    return bool(specs) and all(len(spec.shape) == 2 and isinstance(spec.shape[1], str) for spec in specs)
