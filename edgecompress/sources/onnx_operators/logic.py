"""Comparisons and truth values."""

from __future__ import annotations

import torch
from torch import Tensor

from edgecompress.sources.onnx_operators.base import each, in_int64


def _where(condition: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.where(condition, left, right)


OPERATORS = {
    "And": each(torch.logical_and),
    "Or": each(torch.logical_or),
    "Xor": each(torch.logical_xor),
    "Not": each(torch.logical_not),
    "Equal": each(in_int64(torch.eq)),
    "Greater": each(in_int64(torch.gt)),
    "GreaterOrEqual": each(in_int64(torch.ge)),
    "Less": each(in_int64(torch.lt)),
    "LessOrEqual": each(in_int64(torch.le)),
    "Where": each(_where),
}
