"""Names in a graph that lead back to the model's layers, and none that lead back to the machine it was made on."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    import onnx

SCOPES = "pkg.torch.onnx.name_scopes"


def tidy(proto: onnx.ModelProto, model: nn.Module, outputs: Sequence[str] = ()) -> None:
    """Names that lead back to the layers, those of ``outputs``, and no traces of the machine; in place."""
    layers = {name: _has_matrix(module) for name, module in model.named_modules()}
    used: Counter[str] = Counter()
    for node in proto.graph.node:
        base = f"{_source(node, layers)}/{node.op_type}".lstrip("/")
        used[base] += 1
        node.name = base if used[base] == 1 else f"{base}_{used[base]}"
    _rename_outputs(proto, outputs)
    _strip(proto)
    proto.graph.name = "edgecompress"
    proto.producer_name, proto.producer_version, proto.doc_string = "edgecompress", "", ""


def value_names(stem: str, count: int, taken: set[str], wanted: Sequence[str] = ()) -> list[str]:
    """The names that are wanted, else ``input``, or ``input_0``, ``input_1`` ...

    Longer where a weight of the model has such a name.
    """
    if any(wanted):
        names = [f"{stem}_{name or index}" if not name or name in taken else name for index, name in enumerate(wanted)]
        return names if len(set(names) - taken) == count else value_names(stem, count, taken)
    names = [stem] if count == 1 else [f"{stem}_{index}" for index in range(count)]
    return names if not taken.intersection(names) else value_names(f"model_{stem}", count, taken)


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module itself owns a weight of two or more dimensions, so that its node is a product."""
    return any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))


def _rename_outputs(proto: onnx.ModelProto, given: Sequence[str]) -> None:
    """Call the outputs as ``given``, else ``output`` or ``output_0``, ``output_1`` ...

    What is an input, a constant or an output already becomes an output of its own.
    """
    graph = proto.graph
    _own_outputs(graph)
    taken = {name for node in graph.node for name in (*node.input, *node.output)}
    taken |= {value.name for value in (*graph.initializer, *graph.input)}
    wanted = value_names("output", len(graph.output), taken - {value.name for value in graph.output}, given)
    renamed = {value.name: new for value, new in zip(graph.output, wanted, strict=True)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for value in graph.output:
        value.name = renamed.get(value.name, value.name)


def _own_outputs(graph: onnx.GraphProto) -> None:
    import onnx

    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] == node.output[0]]:
        graph.node.remove(node)  # of the exporter's, for an input that is given back under its own name
    taken = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for index, value in enumerate(graph.output):
        if value.name in taken:
            name = f"{value.name}_as_output_{index}"
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [name], f"output_{index}/Identity"))
            value.name = name
        taken.add(value.name)


def _source(node: onnx.NodeProto, layers: dict[str, bool]) -> str:
    """The layer a node comes from; ``layers`` says of each module whether it owns a matrix.

    The deepest module in the recorded scopes, if that is a layer with a matrix; else the owner of the node's weight
    (a batch norm folded into a convolution leaves the norm's scope); else the deepest module. Layers with equal
    weights share one, so the owner alone would name the wrong layer.
    """
    deepest = next((scope for scope in reversed(_scopes(node)) if scope in layers), "")
    if layers.get(deepest):
        return deepest
    owners = (name.removesuffix(".weight") for name in node.input if name.endswith(".weight"))
    return next((owner for owner in owners if owner in layers), deepest)


def _scopes(node: onnx.NodeProto) -> list[str]:
    recorded = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    try:
        return [str(scope) for scope in ast.literal_eval(recorded)]
    except (ValueError, SyntaxError):
        return []


def _strip(proto: onnx.ModelProto) -> None:
    """Drop doc strings and metadata everywhere: they hold paths and would differ between machines."""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]
