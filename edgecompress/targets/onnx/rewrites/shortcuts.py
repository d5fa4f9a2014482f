"""A shortcut without parameters as one convolution of zeros and ones.

Residual networks of CIFAR-10 (He et al. 2016, option A) step over every other pixel and add channels of zeros: Slice,
Slice, Pad; or a pooling of one pixel and a Concat. Runtimes that keep images in blocks of channels have no kernel for
that, so that each goes back to rows of pixels and what follows is no longer fused. A 1x1 convolution with stride is
the same, and has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompress.targets.onnx.rewrites.base import Graph, attributes, scope

if TYPE_CHECKING:
    import onnx

POOLS = ("AveragePool", "MaxPool")
LEAST_RANK = 3
"""Axes of a tensor with positions: batch, channels, one position."""


@dataclass(frozen=True, slots=True)
class _Widened:
    """A tensor with channels of zeros before and behind its own, and the nodes that make it so."""

    source: str
    before: int
    behind: int
    nodes: tuple[onnx.NodeProto, ...]


class Shortcuts:
    """Steps over pixels, then zeros as further channels: Conv."""

    name = "shortcuts"
    summary = "shortcuts without parameters made convolutions"
    changes_weights = False

    def apply(self, graph: Graph) -> int:
        """Each that is found."""
        return sum(self._replaced(graph, node) for node in graph.nodes if node.op_type in ("Pad", "Concat"))

    def _replaced(self, graph: Graph, last: onnx.NodeProto) -> bool:
        import numpy as np
        import onnx

        widened = (_padded if last.op_type == "Pad" else _concatenated)(graph, last)
        if widened is None:
            return False
        source, strides, stepped = _steps(graph, widened.source, len(widened.nodes))
        sizes = graph.shape(source)
        if len(sizes) < LEAST_RANK or not sizes[1]:
            return False
        channels, positions = sizes[1], [1] * (len(sizes) - 2)
        weight = np.zeros((widened.before + channels + widened.behind, channels, *positions), np.float32)
        weight[range(widened.before, widened.before + channels), range(channels)] = 1
        name = f"{scope(last)}.weight" if f"{scope(last)}.weight" not in graph.constants else f"{last.name}.weight"
        node = onnx.helper.make_node(
            "Conv", [source, name], [last.output[0]], f"{scope(last)}/Conv",
            kernel_shape=positions, strides=[strides.get(axis, 1) for axis in range(2, len(sizes))],
        )  # fmt: skip
        graph.replace((*stepped, *widened.nodes), node, {name: weight})
        return True


def _padded(graph: Graph, node: onnx.NodeProto) -> _Widened | None:
    """A Pad of zeros on the channels alone."""
    pads, value, axes = (graph.constant(node, at) for at in (1, 2, 3))
    given = attributes(node)
    if pads is None or (value is not None and value.any()) or given.get("mode", b"constant") != b"constant":
        return None
    rank = len(pads) // 2
    order = list(range(rank)) if axes is None else [int(axis) for axis in axes]
    ends = {axis: (int(pads[at]), int(pads[at + rank])) for at, axis in enumerate(order)}
    before, behind = ends.pop(1, (0, 0))
    if any(any(pair) for pair in ends.values()) or min(before, behind) < 0 or not before + behind:
        return None
    return _Widened(node.input[0], before, behind, (node,))


def _concatenated(graph: Graph, node: onnx.NodeProto) -> _Widened | None:
    """A Concat, along the channels, of a tensor and itself times zero."""
    if len(node.input) != 2 or attributes(node).get("axis") != 1:
        return None
    for at, other in ((0, 1), (1, 0)):
        source, zeros = node.input[at], graph.maker.get(node.input[other])
        if zeros is None or zeros.op_type != "Mul" or graph.readers[zeros.output[0]] > 1:
            continue
        factors = [graph.constant(zeros, place) for place in (0, 1)]
        if source in zeros.input and any(factor is not None and not factor.any() for factor in factors):
            sizes = graph.shape(source)
            more = sizes[1] if len(sizes) >= LEAST_RANK else 0
            before, behind = (0, more) if at == 0 else (more, 0)
            return _Widened(source, before, behind, (zeros, node)) if more else None
    return None


def _steps(graph: Graph, tensor: str, readers: int) -> tuple[str, dict[int, int], list[onnx.NodeProto]]:
    """What is stepped over to get ``tensor``, by axis how far, and the nodes that do it.

    ``readers`` of the tensor are replaced, too.
    """
    strides: dict[int, int] = {}
    nodes: list[onnx.NodeProto] = []
    while (node := graph.maker.get(tensor)) is not None and graph.readers[tensor] == readers:
        found = _slice_steps(graph, node) if node.op_type == "Slice" else _pool_steps(node)
        if not found:
            break
        strides = {axis: strides.get(axis, 1) * found.get(axis, 1) for axis in {*strides, *found}}
        nodes.append(node)
        tensor, readers = node.input[0], 1
    return tensor, strides, nodes


def _slice_steps(graph: Graph, node: onnx.NodeProto) -> dict[int, int]:
    """By axis, of a Slice over whole positions; empty for any other."""
    starts, ends, axes, steps = (graph.constant(node, at) for at in (1, 2, 3, 4))
    if starts is None or ends is None or axes is None or steps is None:
        return {}
    sizes = graph.shape(node.input[0])
    whole = all(end >= (sizes[axis] if axis < len(sizes) and sizes[axis] else 2**31 - 1)
                for end, axis in zip(ends.tolist(), axes.tolist(), strict=True))  # fmt: skip
    if starts.any() or not whole or (steps < 1).any() or (axes < 0).any() or not sizes:
        return {}
    found = {int(axis): int(step) for axis, step in zip(axes, steps, strict=True)}
    return found if all(axis > 1 or step == 1 for axis, step in found.items()) else {}


def _pool_steps(node: onnx.NodeProto) -> dict[int, int]:
    """By axis, of a pooling of single pixels; empty for any other node."""
    given = attributes(node) if node.op_type in POOLS else {}
    kernel = given.get("kernel_shape", ())
    if set(kernel) != {1} or any(given.get("pads", ())) or len(node.output) > 1:
        return {}
    return dict(enumerate(given.get("strides", [1] * len(kernel)), start=2))
