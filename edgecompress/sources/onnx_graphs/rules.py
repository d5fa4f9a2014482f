"""What a value, a shape or an axis is for any batch, by what it is for two batch sizes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edgecompress.sources.onnx_graphs.network import Sizes


def rule_of(results: Sequence[Tensor], batches: Sequence[int]) -> Tensor | Sizes | None:
    """What the results are for any batch; None where that cannot be said."""
    first, last = results[0], results[-1]
    if any(item.shape != first.shape for item in results):
        return None
    if all(torch.equal(item, first) for item in results):
        return first
    if first.dtype not in (torch.int64, torch.int32) or batches[0] == batches[-1]:
        return None
    slope = torch.div(last - first, batches[-1] - batches[0], rounding_mode="floor")
    offset = first - slope * batches[0]
    exact = all(torch.equal(item, offset + slope * batch) for item, batch in zip(results, batches, strict=True))
    return Sizes(offset.tolist(), slope.tolist(), first.dtype) if exact else None


def free_shape(shapes: Sequence[Sequence[int]], fixed: int) -> list[int] | None:
    """One shape for all batches, with -1 where it grows with the batch; None where there is none."""
    if any(0 in shape for shape in shapes):
        return None
    if fixed:
        return [-1, *shapes[0][1:]] if shapes[0] and shapes[0][0] % fixed == 0 else None
    target = [sizes[0] if len(set(sizes)) == 1 else -1 for sizes in zip(*shapes, strict=True)]
    return target if target.count(-1) <= 1 else None


def batch_axis(shapes: Sequence[Sequence[int]], batches: Sequence[int]) -> int:
    """The axis that is as long as the batch, if it is not the first; else 0."""
    if len(batches) < 2 or len({len(shape) for shape in shapes}) != 1:
        return 0
    grows = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if list(sizes) == list(batches)]
    return grows[0] if grows else 0
