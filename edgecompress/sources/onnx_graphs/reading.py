"""Reading an .onnx file of unknown origin: nothing in it is run, nothing outside its folder is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from edgecompress.errors import ModelError, first_line, printable
from edgecompress.sources.onnx_operators import OPERATORS
from edgecompress.sources.onnx_operators.base import DTYPES, Node

if TYPE_CHECKING:
    import onnx

OLDEST = 11
"""Opset that operators are read in from."""
LARGEST = 2**31 - 1
"""Bytes of a file, without weights beside it."""
QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
QUANTIZED_LAYERS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
BRANCHES = ("If",)
BODIES = ("Loop", "Scan", "SequenceMap")


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a graph, batch first: its dims are numbers, or a name where they are free (empty: without one)."""

    name: str
    dtype: torch.dtype
    dims: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a file holds."""

    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    constants: dict[str, Tensor]


def read(path: Path) -> Graph:
    """The graph in an .onnx file.

    Raises:
        ModelError: it is none, is damaged, or holds what cannot be made layers of; says which node.
    """
    model = _loaded(path)
    try:
        return graph_of(model)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def _loaded(path: Path) -> onnx.ModelProto:
    import onnx

    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    if path.stat().st_size > LARGEST:
        raise ModelError(f"{path}: is larger than 2 GiB; save its weights beside it (external data)")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf raises its own
        raise ModelError(f"{path}: is no .onnx file, or damaged: {first_line(error)}") from None
    outside = [location for location in _locations(model) if not _is_beside(path, location)]
    if outside:
        raise ModelError(
            f"{path}: its weights are in {printable(outside[0])}, which is not in its folder; put it there"
        )
    try:
        onnx.load_external_data_for_model(model, str(path.resolve().parent))
    except Exception as error:
        raise ModelError(f"{path}: its weights beside it cannot be read: {first_line(error)}") from None
    return model


def _locations(model: onnx.ModelProto) -> Iterator[str]:
    """Names of files with weights."""
    from onnx.external_data_helper import _get_all_tensors, uses_external_data

    for tensor in _get_all_tensors(model):
        if uses_external_data(tensor):
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _is_beside(path: Path, location: str) -> bool:
    folder = path.resolve().parent
    file = (folder / location).resolve()
    return not Path(location).is_absolute() and file.is_relative_to(folder) and file.is_file()


def graph_of(model: onnx.ModelProto) -> Graph:
    """The graph of a model in memory, its functions put in place.

    Raises:
        ModelError: it holds what cannot be made layers of.
    """
    import onnx
    import onnx.inliner

    version = _version(model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    model = _expanded(model)
    for node in model.graph.node:
        _refuse(node)
    for item in model.graph.output:  # the checker wants a shape, which exporters leave out and nobody reads here
        if item.type.HasField("tensor_type") and not item.type.tensor_type.HasField("shape"):
            item.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError(f"is not valid: {first_line(error)}") from None
    return _graph(model.graph, version)


def _expanded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Operators that are not in the table, by the simpler ones that the standard says they consist of."""
    import onnx.inliner

    unknown = {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")} - OPERATORS.keys()
    wanted = [("", kind) for kind in sorted(unknown - {*QUANTIZED, *QUANTIZED_LAYERS, *BODIES, *BRANCHES})]
    return onnx.inliner.inline_selected_functions(model, wanted, inline_schema_functions=True) if wanted else model


def _version(model: onnx.ModelProto) -> int:
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), OLDEST)
    if version < OLDEST:
        raise ModelError(
            f"is of opset {version}, {OLDEST} or newer is read; onnx.version_converter.convert_version(model, 17) "
            "makes it newer"
        )
    return version


def _graph(graph: onnx.GraphProto, version: int) -> Graph:
    constants = {item.name: tensor_of(item) for item in graph.initializer}
    if graph.sparse_initializer:
        raise ModelError("has sparse weights; store them dense")
    inputs = tuple(_input(item) for item in graph.input if item.name not in constants)
    nodes = tuple(nodes_of(graph, version))
    return Graph(inputs, tuple(item.name for item in graph.output), nodes, constants)


def nodes_of(graph: onnx.GraphProto, version: int) -> Iterator[Node]:
    """The nodes of a graph, which are sorted."""
    for index, node in enumerate(graph.node):
        _refuse(node)
        attributes = {item.name: _attribute(item, node) for item in node.attribute}
        name = node.name or f"{node.op_type}_{index}"
        yield Node(node.op_type, name, tuple(node.input), tuple(node.output), attributes, version)


def _refuse(node: onnx.NodeProto) -> None:
    """Refuse what cannot be made layers of.

    Raises:
        ModelError: with the operator, the node and the way out.
    """
    where = f"{node.op_type} (node {node.name!r}"
    if node.op_type in (*QUANTIZED, *QUANTIZED_LAYERS):
        raise ModelError(
            f"{where}) makes it a quantized file; give the float file it was made from (`edgecompress export "
            "--quantize int8` quantizes what comes out)"
        )
    if node.domain not in ("", "ai.onnx"):
        raise ModelError(
            f"{where}, domain {node.domain!r}) is not an operator of the ONNX standard itself; export without it"
        )
    if node.op_type in BODIES:
        raise ModelError(f"{where}) runs a graph of its own again and again; export the model without loops")
    if node.op_type not in OPERATORS and node.op_type not in BRANCHES:
        raise ModelError(f"{where}, domain 'ai.onnx') is not an operator that is known here; export without it")


def _input(item: onnx.ValueInfoProto) -> Input:
    kind = item.type.WhichOneof("value")
    tensor = item.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type not in DTYPES:
        raise ModelError(f"its input {item.name!r} is no tensor of numbers")
    if not tensor.HasField("shape"):
        raise ModelError(f"its input {item.name!r} has no shape; write one with onnx.shape_inference or export again")
    dims = tuple(dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in tensor.shape.dim)
    return Input(item.name, DTYPES[tensor.elem_type], dims)


def _attribute(item: onnx.AttributeProto, node: onnx.NodeProto) -> Any:
    import onnx

    readers: dict[int, Callable[[], Any]] = {
        onnx.AttributeProto.FLOAT: lambda: item.f,
        onnx.AttributeProto.INT: lambda: item.i,
        onnx.AttributeProto.STRING: lambda: item.s.decode("utf-8", "replace"),
        onnx.AttributeProto.TENSOR: lambda: tensor_of(item.t),
        onnx.AttributeProto.GRAPH: lambda: item.g,
        onnx.AttributeProto.FLOATS: lambda: list(item.floats),
        onnx.AttributeProto.INTS: lambda: list(item.ints),
        onnx.AttributeProto.STRINGS: lambda: [text.decode("utf-8", "replace") for text in item.strings],
    }
    if item.type not in readers:
        kind = onnx.AttributeProto.AttributeType.Name(item.type)
        raise ModelError(f"{node.op_type} (node {node.name!r}): its attribute {item.name!r} is of type {kind}")
    return readers[item.type]()


def tensor_of(proto: onnx.TensorProto) -> Tensor:
    """A tensor of the file.

    Raises:
        ModelError: of a type that PyTorch does not compute in.
    """
    import numpy as np
    from onnx import TensorProto, numpy_helper

    if proto.data_type not in DTYPES:
        kind = TensorProto.DataType.Name(proto.data_type)
        raise ModelError(f"its weight {proto.name!r} is of type {kind}; give a file in float32")
    array = np.ascontiguousarray(numpy_helper.to_array(proto))
    if proto.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16).reshape(array.shape)
    return torch.from_numpy(array.copy()).reshape(numpy_helper.to_array(proto).shape)
