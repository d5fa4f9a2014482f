"""What an operator of ONNX is here: a function of its node and its inputs, in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from edgecompress.errors import ModelError

DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    16: torch.bfloat16,
}
"""By the numbers of ``TensorProto.DataType``."""

WIDE = (torch.uint16, torch.uint32, torch.uint64)
"""Types that PyTorch holds but hardly computes in."""


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph.

    Args:
        kind: the operator's name, of the domain of ONNX itself.
        name: the node's, for messages and paths.
        inputs: names of its values; empty where an optional one is left out.
        outputs: the same.
        attributes: by name, as numbers, texts, lists and tensors.
        version: the opset that it is written in.
        dtypes: of its inputs, once they are known.
    """

    kind: str
    name: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    version: int = 11
    dtypes: tuple[torch.dtype | None, ...] = ()

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or ``default``."""
        return self.attributes.get(name, default)

    def wants(self, index: int) -> bool:
        """Whether the output at ``index`` is used."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def refused(self, fact: str) -> ModelError:
        """The error that names this node."""
        return ModelError(f"{self.kind} (node {self.name!r}): {fact}")


@dataclass(frozen=True, slots=True)
class Operator:
    """How a node runs.

    Args:
        run: called with the node and its inputs; None stands for an input that is left out.
        known: positions of inputs that ``run`` takes as numbers and lists, not as tensors: shapes, axes, counts.
    """

    run: Callable[..., Any]
    known: tuple[int, ...] = ()


def each(function: Callable[..., Any]) -> Operator:
    """An operator without attributes, of tensors alone."""
    return Operator(lambda _node, *inputs: function(*inputs))


def in_int64(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` of tensors, computed in int64 where PyTorch does not compute in their type."""

    def run(*inputs: Any) -> Any:
        kind = next((given.dtype for given in inputs if isinstance(given, Tensor)), None)
        if kind not in WIDE:
            return function(*inputs)
        result = function(*(given.long() if isinstance(given, Tensor) else given for given in inputs))
        return result.to(kind) if result.dtype == torch.int64 else result

    return run


def axes_of(node: Node, given: Any, rank: int) -> list[int] | None:
    """Axes as an input (newer opsets) or an attribute (older ones), not negative; None where there are none."""
    axes = node.get("axes") if given is None else several(given)
    return None if axes is None else [int(axis) % max(rank, 1) for axis in axes]


def several(numbers: Any) -> list[Any]:
    """Numbers that are known, of a tensor with one axis or none, as a list."""
    return list(numbers) if isinstance(numbers, list | tuple) else [numbers]


def single(number: Any) -> Any:
    """A number that is known, of a tensor of one number; None where it is left out."""
    return number[0] if isinstance(number, list) and number else None if isinstance(number, list) else number
