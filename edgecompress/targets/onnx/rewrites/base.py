"""What a rewrite is, and a graph as rewrites look at it: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

FLOAT = 1
"""``onnx.TensorProto.FLOAT``."""


class Rewrite(Protocol):
    """Replaces nodes by others that compute the same."""

    @property
    def name(self) -> str:
        """The key in ``REWRITES``."""

    @property
    def summary(self) -> str:
        """What became of each place, in words that follow a number: ``shortcut(s) made convolutions``."""

    @property
    def changes_weights(self) -> bool:
        """Does it make other weights of the model's own?"""

    def apply(self, graph: Graph) -> int:
        """Rewrite in place; returns at how many places."""


class Graph:
    """A graph with its tensors looked up; what reads or makes one is looked up anew after each change."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._look_up()

    def _look_up(self) -> None:
        nodes = self.proto.graph.node
        self.maker = {output: node for node in nodes for output in node.output}
        self.readers = Counter(name for node in nodes for name in node.input)
        self.readers.update(value.name for value in self.proto.graph.output)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """In order, as they are now."""
        return list(self.proto.graph.node)

    def constant(self, node: onnx.NodeProto, at: int) -> NDArray[Any] | None:
        """The numbers of a node's input; None where it has none there, or they are computed."""
        import onnx

        name = node.input[at] if at < len(node.input) else ""
        return onnx.numpy_helper.to_array(self.constants[name]) if name in self.constants else None

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, list[int]]]:
        import onnx

        inferred = onnx.shape_inference.infer_shapes(self.proto).graph
        kinds = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.input)}
        return {name: (kind.elem_type, [size.dim_value for size in kind.shape.dim]) for name, kind in kinds.items()}

    def shape(self, tensor: str) -> list[int]:
        """Sizes of a float32 tensor (0: not known); empty for any other."""
        kind, sizes = self._shapes.get(tensor, (0, []))
        return sizes if kind == FLOAT else []

    def replace(
        self, old: Iterable[onnx.NodeProto], new: onnx.NodeProto, weights: dict[str, NDArray[np.float32]]
    ) -> None:
        """``new``, which reads ``weights``, where the last of ``old`` stood; constants that nothing reads go."""
        import onnx

        gone = {output for node in old for output in node.output}
        nodes = self.nodes
        at = max(index for index, node in enumerate(nodes) if gone.intersection(node.output))
        kept = [node for node in nodes[:at] if not gone.intersection(node.output)]
        graph = self.proto.graph
        rest = nodes[at + 1 :]
        made = onnx.NodeProto()
        made.CopyFrom(new)
        del graph.node[:]
        graph.node.extend([*kept, made, *rest])
        graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
        self._forget(gone - set(made.output))

    def _forget(self, gone: set[str]) -> None:
        graph = self.proto.graph
        self._look_up()
        read = [tensor for tensor in graph.initializer if self.readers[tensor.name]]
        del graph.initializer[:]
        graph.initializer.extend(read)
        known = [value for value in graph.value_info if value.name not in gone]
        del graph.value_info[:]
        graph.value_info.extend(known)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """By name."""
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def scope(node: onnx.NodeProto) -> str:
    """The layer in a node's name: ``layer2.0.shortcut`` of ``layer2.0.shortcut/Pad``."""
    return str(node.name).rpartition("/")[0]
