"""Threads for many small matrix problems: one each, since splitting a small one costs more than it saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[int]:
    """PyTorch's operations use one thread for a while; gives how many they used before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def in_parallel(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``function`` of every item, in order, as many at once as PyTorch may use threads, each on one of them."""
    with one_thread() as threads, ThreadPoolExecutor(threads) as pool:
        yield from pool.map(function, items)
