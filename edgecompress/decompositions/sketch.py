"""Second moments of patches too long for a matrix of them: the few patches that were seen stand for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sketch:
    """The moments ``rows^T rows + level I``, (D, D), of which only ``rows`` (n, D) are in memory."""

    rows: Tensor
    level: float

    @property
    def shape(self) -> tuple[int, int]:
        """(D, D)."""
        return (self.rows.shape[1], self.rows.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        """Of the rows."""
        return self.rows.dtype

    def to(self, dtype: torch.dtype) -> Sketch:
        """The same in another precision."""
        return Sketch(self.rows.to(dtype), self.level)

    def __rmatmul__(self, weight: Tensor) -> Tensor:
        """(T, D) times the moments."""
        weighed: Tensor = (weight @ self.rows.T) @ self.rows + self.level * weight
        return weighed

    def of_outputs(self, weight: Tensor) -> Tensor:
        """(T, T): the second moments of the outputs."""
        outputs = weight @ self.rows.T
        second: Tensor = outputs @ outputs.T
        return second.add_(products(weight[None])[0], alpha=self.level)


WIDE, BLOCKS = 1024, 4
"""Larger matrices of products are worked out in so many blocks of rows, each from the diagonal on: 5/8 of the work."""


def products(rows: Tensor) -> Tensor:
    """(groups, D, D): ``rows`` (groups, D, n) times themselves; of wide ones the upper blocks alone are worked out."""
    size = rows.shape[1]
    if size <= WIDE:
        return rows @ rows.mT
    whole, step = rows.new_empty(len(rows), size, size), -(-size // BLOCKS)
    for start in range(0, size, step):
        block = rows[:, start : start + step] @ rows[:, start:].mT
        whole[:, start : start + step, start:] = block
        whole[:, start:, start : start + step] = block.mT
    return whole
