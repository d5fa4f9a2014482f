"""A layer with what lies around it, cut out of a graph: where instructions are counted, the rest need not be run.

What a chain takes more instructions than its layer depends on what is fused with it and on the layouts that neighbours
hand over, and not on caches: so a few nodes around the layer stand for the whole file, at a fraction of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from edgecompress.artifacts import Arrays

if TYPE_CHECKING:
    import onnx

REACH = 3
"""Nodes before a layer and behind it that are cut out with it, along each path."""


def neighbourhood(proto: onnx.ModelProto, places: Sequence[int], feed: Arrays) -> onnx.ModelProto:
    """The nodes at ``places`` and those near them as a model, which takes inputs of the sizes that ``feed`` leads to.

    Nodes keep their names. Where a tensor that would be cut has no known size or another batch, or may not
    hold any numbers, it is the whole model.
    """
    import onnx

    whole = onnx.ModelProto()
    whole.CopyFrom(proto)
    for value in whole.graph.input:
        for axis, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True):
            axis.dim_value = size
    del whole.graph.value_info[:]
    extractor = onnx.utils.Extractor(onnx.shape_inference.infer_shapes(whole))
    taken, given = _ends(proto.graph, _near(proto.graph.node, places))
    batch = len(next(iter(feed.values())))
    known = {name for name, value in extractor.value_infos.items() if _can_be_fed(value, batch)}
    return extractor.extract_model(taken, given) if taken and known.issuperset([*taken, *given]) else proto


def _near(nodes: Sequence[onnx.NodeProto], places: Sequence[int]) -> set[int]:
    """Numbers of the nodes at ``places``, and of those before and behind."""
    makes = {name: at for at, node in enumerate(nodes) for name in node.output}
    uses: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        for name in node.input:
            uses.setdefault(name, []).append(at)
    before = _reached(places, lambda at: (makes[name] for name in nodes[at].input if name in makes))
    return before | _reached(places, lambda at: (user for name in nodes[at].output for user in uses.get(name, ())))


def _reached(places: Sequence[int], beside: Callable[[int], Iterable[int]]) -> set[int]:
    found = last = set(places)
    for _ in range(REACH):
        last = {other for at in last for other in beside(at)}
        found = found | last
    return found


def _ends(graph: onnx.GraphProto, kept: set[int]) -> tuple[list[str], list[str]]:
    """What the ``kept`` nodes take from others, and what of theirs others take or nobody does."""
    constants = {tensor.name for tensor in graph.initializer}
    made = dict.fromkeys(name for at in sorted(kept) for name in graph.node[at].output if name)
    needed = dict.fromkeys(name for at in sorted(kept) for name in graph.node[at].input if name)
    elsewhere = {name for at, node in enumerate(graph.node) if at not in kept for name in node.input}
    elsewhere |= {value.name for value in graph.output}
    taken = [name for name in needed if name not in constants and name not in made]
    return taken, [name for name in made if name in elsewhere or name not in needed]


def _can_be_fed(value: onnx.ValueInfoProto, batch: int) -> bool:
    """Of known size and that batch; whole numbers may be sizes or places, for which not any will do."""
    import onnx

    kind = value.type.tensor_type
    sizes = [axis.dim_value for axis in kind.shape.dim]
    return bool(sizes) and sizes[0] == batch and all(sizes) and kind.elem_type == onnx.TensorProto.FLOAT
