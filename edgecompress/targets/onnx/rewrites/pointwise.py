"""Two pointwise convolutions in a row as one, where that is smaller.

Where one layer's chain ends in a 1x1 convolution, nothing stands between, and the next one's begins with one, as at the
linear ends of inverted bottlenecks, both are one matrix: of fewer numbers where the channels between are many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecompress.targets.onnx.rewrites.base import Graph, attributes, scope

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray


class Pointwise:
    """Conv 1x1, Conv 1x1: Conv 1x1 of their product."""

    name = "pointwise"
    summary = "pairs of pointwise convolutions made one"
    changes_weights = True

    def apply(self, graph: Graph) -> int:
        """Until there is no such pair."""
        places = 0
        while any(self._merged(graph, node) for node in graph.nodes):
            places += 1
        return places

    def _merged(self, graph: Graph, second: onnx.NodeProto) -> bool:
        first = graph.maker.get(second.input[0]) if second.op_type == "Conv" else None
        if first is None or first.op_type != "Conv" or graph.readers[first.output[0]] != 1:
            return False
        inner, outer = _matrix(graph, first), _matrix(graph, second)
        if inner is None or outer is None or len(outer) * inner.shape[1] >= inner.size + outer.size:
            return False
        _put_product(graph, first, second, inner, outer)
        return True


def _matrix(graph: Graph, node: onnx.NodeProto) -> NDArray[Any] | None:
    """(T, C) of a pointwise convolution with constant numbers; None for any other."""
    weight, given = graph.constant(node, 1), attributes(node)
    if weight is None or weight.dtype != "float32" or weight[0, 0].size != 1 or given.get("group", 1) != 1:
        return None
    if any(given.get("pads", ())) or given.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    if len(node.input) > 2 and node.input[2] and graph.constant(node, 2) is None:
        return None
    return weight.reshape(weight.shape[:2]).astype("float64")


def _put_product(
    graph: Graph, first: onnx.NodeProto, second: onnx.NodeProto, inner: NDArray[Any], outer: NDArray[Any]
) -> None:
    """One convolution of ``outer`` times ``inner`` and of both biases."""
    import numpy as np
    import onnx

    positions = graph.constant(first, 1).ndim - 2  # type: ignore[union-attr]
    product = (outer @ inner).reshape(len(outer), inner.shape[1], *[1] * positions)
    biases = [graph.constant(node, 2) for node in (first, second)]
    shift = np.zeros(len(outer)) if biases[1] is None else biases[1].astype("float64")
    shift = shift if biases[0] is None else shift + outer @ biases[0].astype("float64")
    steps = [attributes(node).get("strides", [1] * positions) for node in (first, second)]
    name = f"{scope(first)}.merged"
    numbers = {f"{name}.weight": product.astype(np.float32)}
    if any(bias is not None for bias in biases):
        numbers[f"{name}.bias"] = shift.astype(np.float32)
    node = onnx.helper.make_node(
        "Conv", [first.input[0], *numbers], list(second.output), first.name,
        kernel_shape=[1] * positions, strides=[one * other for one, other in zip(*steps, strict=True)],
    )  # fmt: skip
    graph.replace((first, second), node, numbers)
