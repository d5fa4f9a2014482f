"""One item or batch of data in whatever form: its inputs as the model takes them, and its target where it has one.

Labels are the last of several parts, or have one of the names in ``LABELS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgecompress.errors import DataError

LABELS = ("labels", "label", "targets", "target", "y")
"""Names under which dicts hold what a model should answer."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model takes: the names of its inputs ("" of one by number) and their axes, the batch among them."""

    names: tuple[str, ...]
    axes: tuple[int, ...]


def parted(item: Any, expected: Expected, what: str) -> tuple[Any, ...]:
    """The inputs of an item or a batch, one tensor or a tuple of them, and its target where it has one.

    Raises:
        DataError: it has other parts than the model takes.
    """
    wanted = len(expected.names)
    if isinstance(item, Mapping):
        return _named(item, expected, what)
    if not isinstance(item, tuple | list):
        return (_inputs(item, expected, what),)
    if len(item) == 2 and (wanted != 2 or isinstance(item[0], tuple | list | Mapping)):
        return _inputs(item[0], expected, what), _array(item[1], what)
    if len(item) == wanted + 1:
        return _inputs(tuple(item[:-1]), expected, what), _array(item[-1], what)
    return (_inputs(item, expected, what),)


def _named(item: Mapping[str, Any], expected: Expected, what: str) -> tuple[Any, ...]:
    """Of a dict: what has the names of the model's inputs, and what is called a label."""
    label = next((name for name in LABELS if name in item and name not in expected.names), None)
    target = () if label is None or item[label] is None else (_array(item[label], what),)
    return (_inputs({name: value for name, value in item.items() if name != label}, expected, what), *target)


def _inputs(value: Any, expected: Expected, what: str) -> Any:
    """One tensor, or a tuple of as many as the model takes."""
    if isinstance(value, Mapping):
        value = _by_name(value, expected, what)
    if isinstance(value, tuple | list) and not _is_numbers(value):
        if len(value) != len(expected.names):
            raise DataError(f"{what} has {len(value)} inputs, the example has {len(expected.names)}")
        row = tuple(_array(part, what) for part in value)
        return row[0] if len(row) == 1 else row
    if len(expected.names) != 1:
        raise DataError(f"{what} has one input, the example has {len(expected.names)}")
    return _array(value, what)


def _by_name(value: Mapping[str, Any], expected: Expected, what: str) -> tuple[Any, ...]:
    if not any(expected.names):
        arrays = [part for part in value.values() if is_array(part) or _is_numbers(part)]
        if len(arrays) != len(expected.names):
            raise DataError(
                f"{what} is a dict with {', '.join(map(str, value))}, the example is no dict; give it as one"
            )
        return tuple(arrays)
    missing = [name for name in expected.names if name not in value]
    if missing:
        raise DataError(f"{what} has no {missing[0]!r}, which the example has; it has {', '.join(map(str, value))}")
    return tuple(value[name] for name in expected.names)


def is_array(value: Any) -> bool:
    """A tensor, or an array of NumPy and what is like it."""
    return isinstance(value, Tensor) or (hasattr(value, "__array__") and hasattr(value, "ndim"))


def _is_numbers(value: Any) -> bool:
    """A list of numbers, or of lists of them: what datasets hold that were not told to give tensors."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, int | float)


def _array(value: Any, what: str) -> Tensor:
    """As a tensor."""
    if isinstance(value, Tensor):
        return value
    if is_array(value) or _is_numbers(value):
        return torch.as_tensor(value)
    raise DataError(
        f"{what} holds a {type(value).__name__}; a tensor was expected (datasets of Hugging Face: set_format('torch'); "
        "images: a transform to tensors)"
    )
