"""Weights of an ONNX graph as packed codes, unpacked and multiplied out by a few nodes that fold when a session starts.

::

    packed --(packing)--Reshape (rows, r)--Split--> core, matrices
    each layer:  Einsum(core, matrices, scale) --Reshape--> the weight its Conv or Gemm reads

ONNX Runtime computes nodes of constants once, when it loads the file (DequantizeLinear it would run on every call), so
what runs is the dense graph; :func:`check_folded` proves it.
Anything else that folds constants, as onnxsim does, would write the whole weights into the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from edgecompress.codecs.ada_tucker import factors_of, stored_layers
from edgecompress.decompositions.kernels import weight_of
from edgecompress.errors import ExportError
from edgecompress.files import Json
from edgecompress.targets.onnx.packing import Array, Graph, unpacked
from edgecompress.targets.onnx.sessions import operators_when_loaded

if TYPE_CHECKING:
    import onnx

LETTERS = "abcdefgh"
ONCE = "z"
"""The axis of a factor that is one number."""
CLOSE = 1e-5
"""Largest relative difference between a weight in the graph and the codes times one number a row."""


@dataclass(frozen=True, slots=True)
class Coded:
    """The codes of one layer: core (r1, ..., rn) and matrices (d_i, r_i), whole numbers.

    ``weight`` is what ``scale`` times their product comes to; ``core_key`` tells cores apart.
    """

    name: str
    weight: Array
    scale: float
    largest: tuple[int, int, int]
    core: Array
    matrices: tuple[Array, ...]
    core_key: int


def coded_layers(model: nn.Module) -> list[Coded]:
    """The layers of ``model`` whose factors are codes."""
    found = []
    for name, layer, weight in stored_layers(model):
        if weight.largest is None:
            continue
        core, *matrices = (factor.detach().cpu().numpy().astype(np.int64) for factor in factors_of(layer))
        key, whole = id(factors_of(layer)[0]), weight_of(layer).detach().cpu().numpy()
        found.append(Coded(name, whole, float(weight.scale), weight.largest, core, tuple(matrices), key))
    return found


def put_codes(proto: onnx.ModelProto, layers: Sequence[Coded]) -> Json:
    """Replace the weights of ``layers`` in a graph by their codes, in place; returns facts about it.

    Raises:
        ExportError: a layer's weight is not in the graph as its codes have it.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    graph = Graph(taken=_names(proto.graph))
    for layer, pieces in zip(layers, _unpacked(graph, layers), strict=True):
        node, scale = _weight_node(proto, constants, layer)
        del constants[node.input[1]]
        node.input[1] = _rebuild(graph, layer, pieces, scale)
    _drop_zero_biases(proto, constants)
    _drop_defaults(proto, constants)
    _shorten(proto, graph, constants)
    used = {name for node in (*proto.graph.node, *graph.nodes) for name in node.input}
    kept = [tensor for name, tensor in constants.items() if name in used]
    nodes = [*graph.nodes, *proto.graph.node]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend([*kept, *graph.constants.values()])
    del proto.graph.value_info[:]
    return {"layers": len(layers), "nodes_that_fold": len(graph.nodes)}


def _names(graph: onnx.GraphProto) -> set[str]:
    """Of all values of a graph."""
    inner = {name for node in graph.node for name in (*node.input, *node.output)}
    return inner | {value.name for value in (*graph.input, *graph.output, *graph.initializer)}


def _unpacked(graph: Graph, layers: Sequence[Coded]) -> list[list[str]]:
    """Names of the core, in its shape, and the matrices of each layer; a shared core comes once."""
    groups: dict[int, dict[int, dict[tuple[int, int], Array]]] = {}
    for place, layer in enumerate(layers):
        parts = [((layer.core_key, -1), layer.core, layer.largest[0])]
        parts += [((place, mode), matrix, layer.largest[1]) for mode, matrix in enumerate(layer.matrices)]
        for key, part, largest in parts:
            columns = part.shape[-1]
            groups.setdefault(largest, {}).setdefault(columns, {})[key] = part.reshape(-1, columns)
    names: dict[tuple[int, int], str] = {}
    for largest, tables in groups.items():
        found = unpacked(graph, [list(members.values()) for members in tables.values()], largest)
        for members, of in zip(tables.values(), found, strict=True):
            names |= dict(zip(members, of, strict=True))
    for layer in {layer.core_key: layer for layer in layers}.values():
        names[layer.core_key, -1] = graph.add("Reshape", names[layer.core_key, -1], graph.whole(layer.core.shape))
    return [
        [names[layer.core_key, -1], *(names[place, mode] for mode in range(len(layer.matrices)))]
        for place, layer in enumerate(layers)
    ]


def _drop_defaults(proto: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> None:
    """Attributes that say what is so without them."""
    from onnx import defs

    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    for node in proto.graph.node:
        known = defs.get_schema(node.op_type, opset, node.domain).attributes
        needed = [
            a for a in node.attribute if not (known[a.name].default_value == a or _is_default(node, a, constants))
        ]
        del node.attribute[:]
        node.attribute.extend(needed)


def _shorten(proto: onnx.ModelProto, graph: Graph, constants: Mapping[str, onnx.TensorProto]) -> None:
    """Give values that only this graph's own nodes see the shortest names, and write their whole numbers short."""
    from onnx import TensorProto, numpy_helper

    outside = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    inner = {name for node in proto.graph.node for name in node.output if name and name not in outside}
    renamed = {name: graph.fresh() for name in sorted(inner)}
    whole = {name: of for name, of in constants.items() if of.data_type == TensorProto.INT64 and name not in outside}
    renamed |= {name: graph.constant(numpy_helper.to_array(of)) for name, of in whole.items()}
    for node in proto.graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        if not node.doc_string:
            node.ClearField("doc_string")  # an empty one takes two bytes


def _is_default(node: onnx.NodeProto, attribute: onnx.AttributeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    """A window without steps, gaps or padding, or as large as the weight; what zeros mean in a shape without any."""
    from onnx import numpy_helper

    values = set(attribute.ints)
    if attribute.name == "allowzero":
        shape = constants.get(node.input[1])
        return shape is not None and 0 not in numpy_helper.to_array(shape)
    if attribute.name == "kernel_shape":
        return node.op_type == "Conv"
    return (attribute.name in ("strides", "dilations") and values == {1}) or (
        attribute.name == "pads" and values == {0}
    )


def _rebuild(graph: Graph, layer: Coded, pieces: Sequence[str], scale: Array) -> str:
    """The nodes that multiply a layer's core and matrices out to its weight; a scale of one number is a factor too."""
    factors, letters = len(pieces) - 1, LETTERS[: len(pieces) - 1]
    terms = [letters, *(inner.upper() + inner for inner in letters), *([ONCE] if scale.size == 1 else [])]
    given = [*pieces, *([graph.constant(scale.reshape(1))] if scale.size == 1 else [])]
    whole = graph.add("Einsum", *given, equation=f"{','.join(terms)}->{LETTERS[:factors].upper()}")
    if prod(len(matrix) for matrix in layer.matrices) > layer.weight.size:
        flat = graph.add("Reshape", whole, graph.whole([-1]))
        whole = graph.add("Slice", flat, graph.whole([0]), graph.whole([layer.weight.size]))
    shaped = graph.add("Reshape", whole, graph.whole(layer.weight.shape))
    return shaped if scale.size == 1 else graph.add("Mul", shaped, graph.constant(scale))


def _weight_node(
    proto: onnx.ModelProto, constants: dict[str, onnx.TensorProto], layer: Coded
) -> tuple[onnx.NodeProto, Array]:
    """The node that reads a layer's weight, and what its codes are to be multiplied with: a number, or one a row."""
    from onnx import numpy_helper

    for node in proto.graph.node:
        if (
            node.name.rpartition("/")[0] == layer.name
            and node.op_type in ("Conv", "Gemm")
            and node.input[1] in constants
        ):
            weight = numpy_helper.to_array(constants[node.input[1]])
            if weight.shape == layer.weight.shape:
                return node, _scale(layer, weight)
    raise ExportError(f"{layer.name}: no Conv or Gemm reads its weight {layer.weight.shape} as a constant")


def _scale(layer: Coded, weight: Array) -> Array:
    """A scalar, or (T, 1, ...) where a batch norm was folded into the weight.

    Raises:
        ExportError: the weight is something else than the codes times that.
    """
    codes, rows = (of.astype(np.float64).reshape(len(weight), -1) for of in (layer.weight, weight))
    power = (codes * codes).sum(1)
    each = np.where(power, (codes * rows).sum(1) / np.maximum(power, 1e-30), 1)  # a row of zeros fits any scale
    if np.abs(each[:, None] * codes - rows).max() > CLOSE * max(np.abs(rows).max(), 1e-30):
        raise ExportError(f"{layer.name}: its weight in the graph is not what its codes say")
    if np.allclose(each, 1, rtol=CLOSE, atol=0):
        return np.array(layer.scale, np.float32)
    rows_scale: Array = (layer.scale * each).astype(np.float32).reshape(-1, *(1 for _ in weight.shape[1:]))
    return rows_scale


def _drop_zero_biases(proto: onnx.ModelProto, constants: dict[str, onnx.TensorProto]) -> None:
    """A bias of zeros is no input."""
    from onnx import numpy_helper

    for node in proto.graph.node:
        bias = node.input[2] if len(node.input) == 3 and node.op_type in ("Conv", "Gemm") else ""
        if bias in constants and not numpy_helper.to_array(constants[bias]).any():
            del node.input[2]


def check_folded(proto: onnx.ModelProto, before: Counter[str]) -> Json:
    """What ONNX Runtime makes of the graph when it loads it: no more nodes of any kind than ``before`` the codes.

    Raises:
        ExportError: it would unpack weights on every call.
    """
    after = operators_when_loaded(proto.SerializeToString())
    stray = after - before
    if stray and sum(after.values()) > sum(before.values()):
        raise ExportError(f"ONNX Runtime does not fold the codes when it loads them: {dict(stray)} are left")
    return dict(sorted(after.items()))
