"""One layer of a compressed .onnx file put back as it was in the dense file: what its chain is worth in its place.

The whole file with the chain and the whole file with the dense layer take turns; all that differs is that layer, with
what the runtime fuses into it and how it lays out what goes in and out, which no time of a single operator shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.errors import FileError
from edgecompress.profiling.operators import source_layer

if TYPE_CHECKING:
    import onnx

PREFIX = "dense/"


@dataclass(frozen=True, slots=True)
class _Part:
    """The nodes of one layer, the one tensor that goes into them, and the one that others take out."""

    nodes: tuple[onnx.NodeProto, ...]
    given: str
    taken: str


def with_dense_layer(compressed: Path, dense: Path, layer: str, names: Sequence[str], file: Path) -> None:
    """Write ``compressed`` with ``layer`` (of the model's layers ``names``) as it is in ``dense`` to ``file``.

    Raises:
        FileError: the layer is not a part with one way in and one way out in both files.
    """
    import onnx

    model, other = onnx.load(str(compressed)), onnx.load(str(dense))
    chain, whole = _part(model.graph, layer, names), _part(other.graph, layer, names)
    if chain is None or whole is None:
        raise FileError(f"{layer}: has not one way in and one way out in {compressed.name} and {dense.name}")
    renamed = {whole.given: chain.given, whole.taken: chain.taken}
    nodes = [_renamed(node, renamed) for node in whole.nodes]
    weights = {name for node in whole.nodes for name in node.input if name and name not in renamed}
    for tensor in other.graph.initializer:
        if tensor.name in weights:
            tensor.name = PREFIX + tensor.name
            model.graph.initializer.append(tensor)
    _put(model.graph, chain.nodes, nodes)
    onnx.save(model, str(file))


def _part(graph: onnx.GraphProto, layer: str, names: Sequence[str]) -> _Part | None:
    nodes = tuple(node for node in graph.node if source_layer(node.name.rpartition("/")[0] or None, names) == layer)
    inside = {name for node in nodes for name in node.output}
    known = inside | {tensor.name for tensor in graph.initializer} | {""}
    given = {name for node in nodes for name in node.input} - known
    used = {name for node in graph.node if node not in nodes for name in node.input}
    taken = inside & (used | {value.name for value in graph.output})
    return _Part(nodes, given.pop(), taken.pop()) if len(given) == len(taken) == 1 else None


def _renamed(node: onnx.NodeProto, renamed: dict[str, str]) -> onnx.NodeProto:
    import onnx

    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.name = PREFIX + node.name
    made.input[:] = [renamed.get(name, PREFIX + name if name else "") for name in node.input]
    made.output[:] = [renamed.get(name, PREFIX + name if name else "") for name in node.output]
    return made


def _put(graph: onnx.GraphProto, chain: Sequence[onnx.NodeProto], instead: Sequence[onnx.NodeProto]) -> None:
    """``instead`` where the last node of ``chain`` stood, none of which stays."""
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        if node not in chain:
            kept.append(node)
        elif node == chain[-1]:
            kept += instead
    del graph.node[:]
    graph.node.extend(kept)
