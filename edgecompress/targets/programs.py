"""PyTorch's traced programs, and what is in them as lists of operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from edgecompress.codecs.ada_tucker import materialized
from edgecompress.errors import ExportError, first_line
from edgecompress.models.datasets import Inputs
from edgecompress.targets.mixed_precision import Magnitudes, Operator
from edgecompress.targets.products import is_product
from edgecompress.targets.quieting import quiet


def trace(model: nn.Module, inputs: Inputs) -> torch.export.ExportedProgram:
    """The program of a model in eval mode for inputs of these shapes, with plain weights.

    Raises:
        ExportError: PyTorch cannot trace it.
    """
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(materialized(model), inputs)
    except Exception as error:  # user code of any kind is traced
        cause = error.__cause__ or error
        raise ExportError(
            f"PyTorch cannot trace the model: {type(cause).__name__}: {first_line(cause)[:300]}"
        ) from error


def operators_of(module: fx.GraphModule) -> list[Operator]:
    """The calls of a traced module."""
    return [_operator(node) for node in module.graph.nodes if node.op == "call_function"]


def outputs_of(module: fx.GraphModule) -> list[str]:
    """Names of the nodes that are given back, in order."""
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    return [node.name for node in output.all_input_nodes]


def layer_of(node: fx.Node) -> str:
    """The dotted name of the module that a node was traced in."""
    stack: dict[str, Any] = node.meta.get("nn_module_stack") or {}
    path = str(next(reversed(stack.values()))[0]) if stack else ""
    return path.removeprefix("L['self']").removeprefix(".")


def _operator(node: fx.Node) -> Operator:
    layer = layer_of(node)
    kind = str(node.target).split(".")[1] if "." in str(node.target) else node.name
    given = tuple(each.name for each in node.all_input_nodes)
    label = f"{layer}/{kind}".lstrip("/")
    return Operator(node.name, kind, (layer,), given, (node.name,), label, is_product(str(node.target)))


class _Watching(fx.Interpreter):
    """Runs a module and counts the magnitudes of each node's numbers."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.found: dict[str, Magnitudes] = {}

    def run_node(self, n: fx.Node) -> Any:
        """As ever, and count."""
        result = super().run_node(n)
        if isinstance(result, Tensor) and result.is_floating_point() and n.op != "get_attr":
            self.found.setdefault(n.name, Magnitudes()).add(result.detach().float().numpy())
        return result


def wide_nodes(module: fx.GraphModule, items: Iterable[Inputs]) -> set[str]:
    """Nodes whose tensors have some infinite numbers, or some that leave no int8 step to the others."""
    watching = _Watching(module)
    with torch.no_grad():
        for item in items:
            watching.run(*item)
    return {name for name, magnitudes in watching.found.items() if magnitudes.wide()}
