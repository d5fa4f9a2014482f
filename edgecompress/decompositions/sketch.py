"""Second moments of patches too long for a matrix of them: the few patches that were seen stand for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sketch:
    """The moments ``rows^T rows + level I``, (D, D), of which only ``rows`` (n, D) are in memory.

    A ``level`` (D,) is a diagonal of its own.
    """

    rows: Tensor
    level: float | Tensor

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
        return Sketch(self.rows.to(dtype), self.level.to(dtype) if isinstance(self.level, Tensor) else self.level)

    def __rmatmul__(self, weight: Tensor) -> Tensor:
        """(T, D) times the moments."""
        weighed: Tensor = (weight @ self.rows.T) @ self.rows + self.level * weight
        return weighed

    def of_outputs(self, weight: Tensor) -> Tensor:
        """(T, T): the second moments of the outputs."""
        outputs = weight @ self.rows.T
        if isinstance(self.level, Tensor):
            own: Tensor = (weight * self.level) @ weight.T + outputs @ outputs.T
            return own
        second: Tensor = products(weight[None])[0].mul_(self.level)
        return second.addmm_(outputs, outputs.T)


WIDE, BLOCKS = 1024, 4
"""Larger matrices of products are worked out in so many blocks of rows, each from the diagonal on: 5/8 of the work."""


def products(rows: Tensor) -> Tensor:
    """(groups, D, D): ``rows`` (groups, D, n) times themselves; of wide ones the upper blocks alone are worked out."""
    size = rows.shape[1]
    if size <= WIDE:
        return rows @ rows.mT
    whole = rows.new_zeros(len(rows), size, size)
    add_products(whole, rows)
    return mirrored(whole)


def add_products(whole: Tensor, rows: Tensor) -> None:
    """Add :func:`products` to ``whole`` (groups, D, D), in place; of wide ones to the upper blocks alone."""
    size = rows.shape[1]
    if size <= WIDE or whole.dtype != rows.dtype or whole.device != rows.device:
        whole += products(rows).to(whole.device)
        return
    for start, stop in _blocks(size):
        for of_group, own in zip(whole, rows, strict=True):
            of_group[start:stop, start:].addmm_(own[start:stop], own[start:].T)


def mirrored(whole: Tensor) -> Tensor:
    """``whole`` (groups, D, D), in place, its lower blocks, where it is wide, the upper ones turned over."""
    for start, stop in _blocks(whole.shape[1]) if whole.shape[1] > WIDE else ():
        whole[:, stop:, start:stop] = whole[:, start:stop, stop:].mT
    return whole


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    step = -(-size // BLOCKS)
    return ((start, min(size, start + step)) for start in range(0, size, step))
