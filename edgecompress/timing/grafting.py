"""Chains put into a dense .onnx in place of its layers, without tracing a model: only times are of interest.

Weights are random numbers of the right scale; what the file computes is of no use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.plans import Ranks

if TYPE_CHECKING:
    import numpy as np
    import onnx

Chosen = Mapping[str, tuple[str, Ranks]]
"""By layer the method and ranks of its chain."""

LINKS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def places_of(proto: onnx.ModelProto, layers: Mapping[str, nn.Module]) -> dict[str, list[int]]:
    """By layer where its nodes are in a graph whose nodes are named by layers; none of one that is another operator."""
    found: dict[str, list[int]] = {name: [] for name in layers}
    for at, node in enumerate(proto.graph.node):
        name = node.name.rpartition("/")[0]
        if name in layers and node.op_type == ("Gemm" if isinstance(layers[name], nn.Linear) else "Conv"):
            found[name].append(at)
    return found


def chain_of(layer: nn.Module, method: str, ranks: Ranks) -> list[nn.Module] | None:
    """The links without numbers; None where one is no convolution or product of its own."""
    with torch.device("meta"):
        links = list(DECOMPOSITIONS[method].chain(layer, ranks).children())
    return links if all(type(link) in LINKS and _is_simple(link) for link in links) else None


def graftable(layer: nn.Module) -> bool:
    """Whether chains can be put in its place: their links pad as it does."""
    return type(layer) in LINKS and _is_simple(layer)


def _is_simple(link: nn.Module) -> bool:
    return isinstance(link, nn.Linear) or (link.padding_mode == "zeros" and not isinstance(link.padding, str))


def grafted(proto: onnx.ModelProto, layers: Mapping[str, nn.Module], chosen: Chosen, seed: int = 0) -> onnx.ModelProto:
    """A copy of ``proto`` with the chains that are ``chosen`` in place of those of ``layers``."""
    import numpy as np
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(proto)
    numbers = np.random.default_rng(seed)
    wanted = {at: name for name, places in places_of(proto, layers).items() if name in chosen for at in places}
    nodes: list[onnx.NodeProto] = []
    for at, node in enumerate(proto.graph.node):
        links = chain_of(layers[wanted[at]], *chosen[wanted[at]]) if at in wanted else None
        nodes += [node] if links is None else _put(made.graph, node, links, numbers)
    del made.graph.node[:], made.graph.value_info[:]
    made.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in made.graph.initializer if tensor.name in used]
    del made.graph.initializer[:]
    made.graph.initializer.extend(kept)
    return made


def _put(
    graph: onnx.GraphProto, node: onnx.NodeProto, links: list[nn.Module], numbers: np.random.Generator
) -> list[onnx.NodeProto]:
    """The nodes of a chain that reads and gives what ``node`` does; its bias is the last link's."""
    import numpy as np
    import onnx

    nodes, given = [], node.input[0]
    for number, link in enumerate(links):
        last = number == len(links) - 1
        weight, shape = f"{node.name}.{number}.weight", tuple(link.weight.shape)  # type: ignore[arg-type]
        values = numbers.standard_normal(shape, np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))
        graph.initializer.append(onnx.numpy_helper.from_array(values, weight))
        inputs = [given, weight, *(node.input[2:3] if last else ())]
        given = node.output[0] if last else f"{node.name}.{number}.output"
        kind = "Gemm" if isinstance(link, nn.Linear) else "Conv"
        nodes.append(onnx.helper.make_node(kind, inputs, [given], f"{node.name}.{number}", **_attributes(link)))
    return nodes


def _attributes(link: nn.Module) -> dict[str, Any]:
    if isinstance(link, nn.Linear):
        return {"transB": 1}
    assert isinstance(link, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    assert not isinstance(link.padding, str)
    return {
        "kernel_shape": list(link.kernel_size),
        "strides": list(link.stride),
        "pads": [*link.padding, *link.padding],
        "dilations": list(link.dilation),
        "group": link.groups,
    }
