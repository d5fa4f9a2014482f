"""What a teacher said of each item, kept: it is asked once where every epoch shows it the same inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from edgecompress.models.datasets import Inputs, raw_bytes

MOST_BYTES = 2**26
"""Of all that is kept, 64 MiB: MNIST's logits take 2.2 MB, those of ImageNet's 1.3 million images would take 5 GB."""


class Recall:
    """Rows of a function's outputs by the items they are for; an item is known by all its numbers."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.rows: dict[bytes, Tensor] = {}
        self.room = most_bytes
        self.full = False
        """Something had no room: batches in a new order are hardly ever known whole, so looking them up is in vain."""

    def of(self, inputs: Inputs, ask: Callable[[Inputs], Any]) -> Any:
        """``ask(inputs)``, or what it gave for the same items before; a batch with a new item is asked whole."""
        keys = [_digest(item) for item in zip(*inputs, strict=True)]
        if all(key in self.rows for key in keys):
            return torch.stack([self.rows[key] for key in keys])
        said = ask(inputs)
        if isinstance(said, Tensor) and said.shape[:1] == (len(keys),):
            self._keep(keys, said)
        return said

    def _keep(self, keys: list[bytes], said: Tensor) -> None:
        self.full = said.nbytes > self.room
        if not self.full:
            self.room -= said.nbytes
            self.rows.update(zip(keys, said.detach(), strict=True))


def _digest(item: tuple[Tensor, ...]) -> bytes:
    return hashlib.blake2b(b"".join(raw_bytes(tensor) for tensor in item), digest_size=16).digest()
