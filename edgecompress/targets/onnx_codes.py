"""Weights of an ONNX graph as packed codes, unpacked and multiplied out by a few nodes that fold when a session starts.

::

    packed (n, 1, r) --Div powers--Mod levels--Sub largest--Cast--Reshape (rows, r)--Split--> core, matrices
    each layer:  Einsum(core, matrices) --Mul scale--Reshape--> the weight its Conv or Gemm reads

Codes are digits of whole numbers in base ``levels``: as many in one as an int32 or int64 holds, which wastes next to
nothing whatever the number of levels. ONNX Runtime computes nodes of constants once, when it loads the file
(DequantizeLinear it would run on every call), so what runs is the dense graph; :func:`check_folded` proves it.
Anything else that folds constants, as onnxsim does, would write the whole weights into the file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import floor, log2, prod
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from edgecompress.codecs.ada_tucker import factors_of, stored_layers
from edgecompress.decompositions.kernels import weight_of
from edgecompress.errors import ExportError
from edgecompress.files import Json
from edgecompress.targets.onnx_sessions import operators_when_loaded

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
LETTERS = "abcdefgh"
CLOSE = 1e-5
"""Largest relative difference between a weight in the graph and the codes times one number a row."""
WHOLE = ((np.dtype(np.int32), 31), (np.dtype(np.int64), 63))


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


@dataclass(slots=True)
class _Graph:
    """Nodes and constants that are added to a graph."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    count: int = 0

    def constant(self, array: Array) -> str:
        """The name of a constant; equal ones are kept once."""
        from onnx import numpy_helper

        key = f"{array.dtype}{array.shape}{array.tobytes()!r}"
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, self.fresh())
        return self.constants[key].name

    def fresh(self) -> str:
        """A short name that no layer has."""
        self.count += 1
        return f"_{self.count:x}"

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """A nameless node (none is left when a session runs) with one output, whose name comes back."""
        from onnx import helper

        name = output or self.fresh()
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name


def put_codes(proto: onnx.ModelProto, layers: Sequence[Coded]) -> Json:
    """Replace the weights of ``layers`` in a graph by their codes, in place; returns facts about it.

    Raises:
        ExportError: a layer's weight is not in the graph as its codes have it.
    """
    graph, constants = _Graph(), {tensor.name: tensor for tensor in proto.graph.initializer}
    for layer, pieces in zip(layers, _unpacked(graph, layers), strict=True):
        node, scale = _weight_node(proto, constants, layer)
        _rebuild(graph, layer, pieces, scale, node.input[1])
        del constants[node.input[1]]
    _drop_zero_biases(proto, constants)
    _drop_defaults(proto)
    used = {name for node in (*proto.graph.node, *graph.nodes) for name in node.input}
    kept = [tensor for name, tensor in constants.items() if name in used]
    nodes = [*graph.nodes, *proto.graph.node]
    del proto.graph.node[:], proto.graph.initializer[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend([*kept, *graph.constants.values()])
    del proto.graph.value_info[:]
    return {"layers": len(layers), "nodes_that_fold": len(graph.nodes)}


def _unpacked(graph: _Graph, layers: Sequence[Coded]) -> list[list[str]]:
    """Names of the core, in its shape, and the matrices of each layer.

    Factors with the same number of columns and levels come out of one packed tensor; a shared core comes once.
    """
    groups: dict[tuple[int, int], dict[tuple[int, int], Array]] = {}
    for place, layer in enumerate(layers):
        parts = [((layer.core_key, -1), layer.core, layer.largest[0])]
        parts += [((place, mode), matrix, layer.largest[1]) for mode, matrix in enumerate(layer.matrices)]
        for key, part, largest in parts:
            columns = part.shape[-1]
            groups.setdefault((columns, largest), {})[key] = part.reshape(-1, columns)
    names: dict[tuple[int, int], str] = {}
    for (_, largest), members in groups.items():
        names |= dict(zip(members, _unpack(graph, list(members.values()), largest), strict=True))
    for layer in {layer.core_key: layer for layer in layers}.values():
        shape = graph.constant(np.array(layer.core.shape, np.int64))
        names[layer.core_key, -1] = graph.add("Reshape", names[layer.core_key, -1], shape)
    return [
        [names[layer.core_key, -1], *(names[place, mode] for mode in range(len(layer.matrices)))]
        for place, layer in enumerate(layers)
    ]


def _drop_defaults(proto: onnx.ModelProto) -> None:
    """Attributes that say what is so without them."""
    from onnx import defs

    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    for node in proto.graph.node:
        known = defs.get_schema(node.op_type, opset, node.domain).attributes
        told = [a for a in node.attribute if not (known[a.name].default_value == a or _is_neutral(a))]
        del node.attribute[:]
        node.attribute.extend(told)


def _is_neutral(attribute: onnx.AttributeProto) -> bool:
    """Of a convolution or pooling: a window without steps, gaps or padding."""
    values = set(attribute.ints)
    return (attribute.name in ("strides", "dilations") and values == {1}) or (
        attribute.name == "pads" and values == {0}
    )


def _unpack(graph: _Graph, matrices: Sequence[Array], largest: int) -> list[str]:
    """The names of matrices (rows, r) with digits of base ``2 largest + 1`` packed down the rows."""
    from onnx import helper

    stacked = np.concatenate(matrices) + largest
    packed, powers = packing(stacked, 2 * largest + 1)
    whole = graph.add("Div", graph.constant(packed), graph.constant(powers))
    digits = graph.add("Mod", whole, graph.constant(np.array(2 * largest + 1, packed.dtype)))
    centred = graph.add("Sub", digits, graph.constant(np.array(largest, packed.dtype)))
    numbers = graph.add("Cast", centred, to=1)
    table = graph.add("Reshape", numbers, graph.constant(np.array([-1, stacked.shape[1]], np.int64)))
    rows = [len(matrix) for matrix in matrices]
    rest = len(packed) * powers.size - sum(rows)
    if len(rows) == 1 and not rest:
        return [table]
    names = [graph.fresh() for _ in rows]
    outputs = [*names, graph.fresh()] if rest else names
    sizes = graph.constant(np.array([*rows, rest] if rest else rows, np.int64))
    graph.nodes.append(helper.make_node("Split", [table, sizes], outputs, axis=0))
    return names


def packing(digits: Array, base: int) -> tuple[Array, Array]:
    """``packed`` (n, 1, columns) and ``powers`` (k, 1) with ``digits`` (rows, columns) = packed / powers mod base.

    Of int32 and int64 and of all numbers of digits in one of them, the smallest; rows are padded with zeros.
    """
    best = min(
        (-(-len(digits) // count) * digits.shape[1] * kind.itemsize + count * kind.itemsize, kind.itemsize, count)
        for kind, bits in WHOLE
        for count in range(1, floor(bits / log2(base)) + 1)
    )
    kind, count = np.dtype(f"<i{best[1]}"), best[2]
    groups = -(-len(digits) // count)
    padded = np.zeros((groups * count, digits.shape[1]), np.int64)
    padded[: len(digits)] = digits
    powers = np.array([base**at for at in range(count)], np.int64)
    packed = (padded.reshape(groups, count, -1) * powers[:, None]).sum(1, keepdims=True)
    return packed.astype(kind), powers[:, None].astype(kind)


def _rebuild(graph: _Graph, layer: Coded, pieces: Sequence[str], scale: Array, output: str) -> None:
    """The nodes that multiply a layer's core and matrices out to the weight ``output``."""
    core, *matrices = pieces
    inner, outer = LETTERS[: len(matrices)], LETTERS[: len(matrices)].upper()
    equation = ",".join([inner, *(o + i for o, i in zip(outer, inner, strict=True))]) + "->" + outer
    whole = graph.add("Einsum", core, *matrices, equation=equation)
    if prod(len(matrix) for matrix in layer.matrices) > layer.weight.size:
        flat = graph.add("Reshape", whole, graph.constant(np.array([-1], np.int64)))
        ends = [np.array([end], np.int64) for end in (0, layer.weight.size)]
        whole = graph.add("Slice", flat, *map(graph.constant, ends))
    shape = graph.constant(np.array(layer.weight.shape, np.int64))
    shaped = graph.add("Reshape", whole, shape)
    graph.add("Mul", shaped, graph.constant(scale), output=output)


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
    raise ExportError(f"onnx: {layer.name}: no Conv or Gemm reads its weight {layer.weight.shape} as a constant")


def _scale(layer: Coded, weight: Array) -> Array:
    """A scalar, or (T, 1, ...) where a batch norm was folded into the weight.

    Raises:
        ExportError: the weight is something else than the codes times that.
    """
    codes, rows = (of.astype(np.float64).reshape(len(weight), -1) for of in (layer.weight, weight))
    each = (codes * rows).sum(1) / np.maximum((codes * codes).sum(1), 1e-30)
    if np.abs(each[:, None] * codes - rows).max() > CLOSE * max(np.abs(rows).max(), 1e-30):
        raise ExportError(f"onnx: {layer.name}: its weight in the graph is not what its codes say")
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
        raise ExportError(f"onnx: ONNX Runtime does not fold the codes when it loads them: {dict(stray)} are left")
    return dict(sorted(after.items()))
