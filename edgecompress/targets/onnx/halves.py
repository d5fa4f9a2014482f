"""A .onnx in half precision, whose operators stay in float32 where half precision would not hold their numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompress.artifacts import Arrays
from edgecompress.files import Json
from edgecompress.targets.half_precision import LARGEST, LEAST, outside
from edgecompress.targets.mixed_precision import KeepFloat, Operator, float_facts, float_operators
from edgecompress.targets.onnx.sessions import every_tensor

if TYPE_CHECKING:
    import onnx

MOVES = {"Expand", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Split", "Gather"}
"""Operators that only move numbers."""
CENTRED = {"LayerNormalization": -1, "InstanceNormalization": 2}
"""Operators that square deviations from means, over the axes from this one on."""
BY_EPSILON = "its epsilon is 0 in half precision"


def as_half(
    proto: onnx.ModelProto, operators: Sequence[Operator], feeds: Iterable[Arrays], keep: KeepFloat
) -> tuple[onnx.ModelProto, Json]:
    """Weights and arithmetic in float16, inputs and outputs in float32; and facts about what stayed in float32.

    Raises:
        ExportError: a pattern of ``keep`` fits nothing.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    floats = {**_beyond(proto, operators, feeds), **float_operators(operators, [], keep)}
    made: onnx.ModelProto = convert_float_to_float16(proto, keep_io_types=True, node_block_list=list(floats))
    _without_detours(made)
    OnnxModel(made).topological_sort()
    return made, float_facts(operators, floats)


def _beyond(proto: onnx.ModelProto, operators: Sequence[Operator], feeds: Iterable[Arrays]) -> dict[str, str]:
    """Names of the operators that make or read what half precision does not hold, with what that is."""
    watched = _Watched(proto)
    for name, values in every_tensor(proto, feeds):
        watched.add(name, values)
    reasons = dict(watched.tensors())
    small = dict(_small_constants(proto))
    found: dict[str, str] = {**dict(_by_epsilon(proto)), **dict(watched.squares())}
    for operator in operators:
        for tensor in operator.inputs:
            if tensor in small and operator.kind not in MOVES:
                reasons |= dict.fromkeys(operator.outputs, f"its constant {small[tensor]:.3g} is 0 in half precision")
            elif tensor in reasons and operator.kind in MOVES:
                reasons |= dict.fromkeys(operator.outputs, reasons[tensor])
    for operator in operators:
        why = [reasons[tensor] for tensor in (*operator.outputs, *operator.inputs) if tensor in reasons]
        found |= {operator.name: why[0]} if why else {}
    return found


class _Watched:
    """The largest values of tensors, weights too, and of what norms square inside."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        import onnx

        self.largest: dict[str, float] = {}
        self.inside: dict[str, float] = {}
        self.centred = {node.input[0]: node for node in proto.graph.node if node.op_type in CENTRED}
        self.norms = {node.output[0]: node for node in proto.graph.node if node.op_type == "ReduceL2"}
        for tensor in proto.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                self.add(tensor.name, onnx.numpy_helper.to_array(tensor))

    def add(self, name: str, values: np.ndarray[Any, Any]) -> None:
        """Look at a tensor's numbers."""
        self.largest[name] = max(self.largest.get(name, 0.0), _largest(values))
        if name in self.norms:
            self._square(self.norms[name], values)
        if name in self.centred:
            node = self.centred[name]
            axis = next((each.i for each in node.attribute if each.name == "axis"), CENTRED[node.op_type])
            axes = tuple(range(axis % values.ndim, values.ndim))
            self._square(node, values - values.mean(axes, keepdims=True))

    def _square(self, node: onnx.NodeProto, values: np.ndarray[Any, Any]) -> None:
        self.inside[node.name] = max(self.inside.get(node.name, 0.0), _largest(values) ** 2)

    def tensors(self) -> Iterator[tuple[str, str]]:
        """Those that leave half precision, with what becomes of them."""
        yield from ((name, f"a tensor {why}") for name, value in self.largest.items() if (why := outside(value)))

    def squares(self) -> Iterator[tuple[str, str]]:
        """Operators inside which squares leave it."""
        found = ((name, outside(value)) for name, value in self.inside.items() if value > LARGEST)
        yield from ((name, f"a square inside it {why}") for name, why in found)


def _largest(values: np.ndarray[Any, Any]) -> float:
    finite = values[np.isfinite(values)]
    return float(np.abs(finite).max(initial=0))


def _small_constants(proto: onnx.ModelProto) -> Iterator[tuple[str, float]]:
    """Single numbers, as eps, that half precision does not hold."""
    import onnx

    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            array = onnx.numpy_helper.to_array(tensor)
            if array.size == 1 and 0 < abs(float(array.ravel()[0])) < LEAST * 0.999:
                yield tensor.name, float(array.ravel()[0])


def _by_epsilon(proto: onnx.ModelProto) -> Iterator[tuple[str, str]]:
    for node in proto.graph.node:
        if any(attribute.name == "epsilon" and 0 < attribute.f < LEAST * 0.999 for attribute in node.attribute):
            yield node.name, BY_EPSILON


def _without_detours(proto: onnx.ModelProto) -> None:
    """What goes from float32 to float32 does not pass through float16 on its way; in place."""
    import onnx

    graph = proto.graph
    made: set[str] = set()
    for node in list(graph.node):  # the converter adds one for each of several readers, all of the same name
        if node.output and node.output[0] in made:
            graph.node.remove(node)
        made.update(node.output)
    casts = [node for node in graph.node if node.op_type == "Cast"]
    narrowed = {node.output[0]: node.input[0] for node in casts if node.attribute[0].i == onnx.TensorProto.FLOAT16}
    for node in casts:
        if node.attribute[0].i == onnx.TensorProto.FLOAT and node.input[0] in narrowed:
            node.op_type, node.input[0] = "Identity", narrowed[node.input[0]]
            del node.attribute[:]
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in casts:
        if node.output[0] not in read:
            graph.node.remove(node)
