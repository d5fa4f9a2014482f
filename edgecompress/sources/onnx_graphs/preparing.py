"""A graph as models are taken here: in float32, the batch first in every input, no inputs without axes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from edgecompress.sources.onnx_graphs.reading import Graph, Input
from edgecompress.sources.onnx_operators.base import DTYPES, Node

HALF = (torch.float16, torch.bfloat16, torch.float64)
"""Floating types that are taken in float32."""


def in_single(graph: Graph) -> tuple[Graph, list[str]]:
    """The graph with all floating numbers in float32, and the types that were changed."""
    found = {tensor.dtype for tensor in graph.constants.values()} | {item.dtype for item in graph.inputs}
    inputs = tuple(replace(item, dtype=_single(item.dtype)) for item in graph.inputs)
    constants = {name: tensor.to(_single(tensor.dtype)) for name, tensor in graph.constants.items()}
    nodes = tuple(_single_node(node) for node in graph.nodes)
    changed = sorted(str(dtype).removeprefix("torch.") for dtype in found & set(HALF))
    return Graph(inputs, graph.outputs, nodes, constants), changed


def _single(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in HALF else dtype


def _single_node(node: Node) -> Node:
    """A node whose constants and casts are in float32 where they are floating."""
    attributes = {name: _single_attribute(name, value) for name, value in node.attributes.items()}
    return replace(node, attributes=attributes)


def _single_attribute(name: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(_single(value.dtype))
    return 1 if name in ("to", "dtype") and DTYPES.get(value) in HALF else value


TURNED = ".first"
"""Ending of the name of an input whose batch was brought to the front."""
PASSING = ("Cast", "Gather", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Operators that leave a single number as it is."""


def settled(graph: Graph) -> tuple[Graph, dict[str, float]]:
    """The graph with a number for each input without axes: the one that it is compared with, else 1."""
    open_inputs = {item.name: item for item in graph.inputs if not item.dims}
    compared = _compared(graph, set(open_inputs))
    numbers = {
        name: compared.get(name, torch.ones(())).reshape(-1)[0].to(item.dtype) for name, item in open_inputs.items()
    }
    inputs = tuple(item for item in graph.inputs if item.dims)
    changed = replace(graph, inputs=inputs, constants=graph.constants | numbers)
    return changed, {name: float(number) for name, number in numbers.items()}


def _compared(graph: Graph, names: set[str]) -> dict[str, Tensor]:
    """The first constant that each of some inputs is compared with."""
    constants = {node.outputs[0]: node.get("value") for node in graph.nodes if node.kind == "Constant"}
    constants |= graph.constants
    origins, found = {name: name for name in names}, dict[str, Tensor]()
    for node in graph.nodes:
        if node.kind in PASSING and node.inputs[0] in origins:
            origins[node.outputs[0]] = origins[node.inputs[0]]
        for ours, theirs in (node.inputs, node.inputs[::-1]) if node.kind == "Equal" else ():
            if ours in origins and isinstance(constants.get(theirs), Tensor):
                found.setdefault(origins[ours], constants[theirs])
    return found


def batch_first(graph: Graph) -> tuple[Graph, list[str]]:
    """The graph with the batch as the first axis of every input, and the names of those that have it elsewhere."""
    first = graph.inputs[0].dims if graph.inputs else ()
    axes = {item.name: _axis(item, first[0]) for item in graph.inputs} if first else {}
    moved = {name: axis for name, axis in axes.items() if axis}
    inputs = tuple(_turned(item, moved.get(item.name, 0)) for item in graph.inputs)
    turns = tuple(_turn(item, moved[item.name]) for item in graph.inputs if item.name in moved)
    return Graph(inputs, graph.outputs, (*turns, *graph.nodes), graph.constants), list(moved)


def _axis(item: Input, batch: int | str) -> int:
    """The axis of the batch: of its name or size, else the first that is free."""
    if batch and batch in item.dims:
        return item.dims.index(batch)
    if isinstance(batch, int):
        return 0
    return next((axis for axis, size in enumerate(item.dims) if isinstance(size, str)), 0)


def _turned(item: Input, axis: int) -> Input:
    if not axis:
        return item
    return Input(f"{item.name}{TURNED}", item.dtype, (item.dims[axis], *item.dims[:axis], *item.dims[axis + 1 :]))


def _turn(item: Input, axis: int) -> Node:
    order = [*range(1, axis + 1), 0, *range(axis + 1, len(item.dims))]
    return Node("Transpose", item.name, (f"{item.name}{TURNED}",), (item.name,), {"perm": order})
