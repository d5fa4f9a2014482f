"""Network: the module that an .onnx file becomes. Its layers are PyTorch's, the rest are calls of operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.sources.onnx_operators.base import Node, Operator


@dataclass(frozen=True, slots=True)
class Value:
    """What an earlier step gave, or an input of the model."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A parameter or buffer of the network."""

    path: str


@dataclass(frozen=True, slots=True)
class Known:
    """Numbers, or lists of them."""

    numbers: Any


@dataclass(frozen=True, slots=True)
class Sizes:
    """Whole numbers that depend on the batch: ``offset + slope * batch``, each a number or lists of them."""

    offset: Any
    slope: Any
    dtype: torch.dtype = torch.int64

    def at(self, batch: Any) -> Any:
        """The numbers, for a batch that may be symbolic."""
        return _affine(self.offset, self.slope, batch)


def _affine(offset: Any, slope: Any, batch: Any) -> Any:
    if isinstance(offset, list):
        return [_affine(*pair, batch) for pair in zip(offset, slope, strict=True)]
    return offset + slope * batch if slope else offset


Given = Value | Constant | Known | Sizes | None


@dataclass(frozen=True, slots=True)
class Step:
    """A node to run.

    Args:
        node: for its attributes.
        operator: what runs it, unless a layer does.
        layer: path of the layer that runs it, or empty.
        given: where each input comes from.
        outputs: names of what it gives.
        unused: values that no later step needs.
    """

    node: Node
    operator: Operator | None
    layer: str
    given: tuple[Given, ...]
    outputs: tuple[str, ...]
    unused: tuple[str, ...] = ()


class Scope(nn.Module):
    """Holds what is below a dotted path."""


class Network(nn.Module):
    """Runs ``steps`` in their order.

    Args:
        inputs: names of the model's inputs, batch first.
        outputs: names of the values it gives back; a single one is not in a tuple.
        steps: filled by whoever builds it.
        output_names: what exported files call the outputs; empty: by number.
    """

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.inputs, self.outputs = tuple(inputs), tuple(outputs)
        self.output_names: tuple[str, ...] = ()
        self.steps: list[Step] = []
        self.results: dict[str, Constant] = {}

    def forward(self, *inputs: Tensor) -> Any:
        """The outputs, in the order of the file."""
        values: dict[str, Any] = dict(zip(self.inputs, inputs, strict=True))
        batch = inputs[0].shape[0] if inputs and inputs[0].dim() else 1
        for step in self.steps:
            self.run(step, values, batch)
            for name in step.unused:
                values.pop(name, None)
        found = tuple(self._result(name, values) for name in self.outputs)
        return found if len(found) != 1 else found[0]

    def _result(self, name: str, values: dict[str, Any]) -> Any:
        return self.find(self.results[name].path) if name in self.results else values[name]

    def run(self, step: Step, values: dict[str, Any], batch: Any) -> None:
        """Run one step on ``values``, and put there what it gives."""
        known = step.operator.known if step.operator else ()
        given = [self._taken(item, values, batch, as_numbers=index in known) for index, item in enumerate(step.given)]
        result = self.get_submodule(step.layer)(*given) if step.layer else self._operated(step, given)
        results = result if isinstance(result, tuple | list) else (result,)
        values.update((name, value) for name, value in zip(step.outputs, results, strict=False) if name)

    def _operated(self, step: Step, given: list[Any]) -> Any:
        assert step.operator is not None
        return step.operator.run(step.node, *given)

    def _taken(self, given: Given, values: dict[str, Any], batch: Any, *, as_numbers: bool) -> Any:
        if given is None:
            return None
        if isinstance(given, Known):
            return given.numbers
        if isinstance(given, Sizes):
            return given.at(batch) if as_numbers else as_tensor(given.at(batch)).to(given.dtype)
        found = values[given.name] if isinstance(given, Value) else self.find(given.path)
        return found.tolist() if as_numbers else found

    def find(self, path: str) -> Tensor:
        """A parameter or buffer."""
        scope, _, name = path.rpartition(".")
        found = getattr(self.get_submodule(scope), name)
        assert isinstance(found, Tensor)
        return found

    def forget_unused(self) -> None:
        """Mark the values that no later step needs, and take away scopes that nothing was put into."""
        kept, steps = set(self.outputs), []
        for step in reversed(self.steps):
            named = {item.name for item in step.given if isinstance(item, Value)} | {
                name for name in step.outputs if name
            }
            steps.append(replace(step, unused=tuple(sorted(named - kept))))
            kept |= named
        self.steps = steps[::-1]
        for path, module in list(self.named_modules()):
            held = (module._modules, module._parameters, module._buffers)
            if path and type(module) is Scope and not any(held):
                parent, _, name = path.rpartition(".")
                delattr(self.get_submodule(parent), name)


def as_tensor(numbers: Any) -> Tensor:
    """Whole numbers, which may be symbolic, as a tensor."""
    if isinstance(numbers, list):
        return torch.stack([as_tensor(number) for number in numbers]) if numbers else torch.zeros(0, dtype=torch.int64)
    return torch.full((), numbers, dtype=torch.int64)
