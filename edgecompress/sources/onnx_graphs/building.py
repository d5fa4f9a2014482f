"""Building a Network from a graph: constants and shapes are computed once, weighted nodes become layers.

The graph is run node by node on examples of several batch sizes. What is the same for all of them and hangs on no
input's numbers is a constant; whole numbers that grow with the batch, as those in a Shape, are kept as such a rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import EdgeCompressError, first_line
from edgecompress.models.forms import as_names
from edgecompress.sources.onnx_graphs.layers import Made, Weights, layer_for
from edgecompress.sources.onnx_graphs.naming import cleaned, counted, path_of, place
from edgecompress.sources.onnx_graphs.network import Constant, Given, Known, Network, Sizes, Step, Value
from edgecompress.sources.onnx_graphs.reading import BRANCHES, Graph, nodes_of, tensor_of
from edgecompress.sources.onnx_graphs.rules import batch_axis, free_shape, rule_of
from edgecompress.sources.onnx_operators import OPERATORS
from edgecompress.sources.onnx_operators.base import Node, Operator

LARGEST_CONSTANT = 2**28
"""Numbers in a tensor that is computed from constants alone."""
PLACES = ("Shape", "Size")
"""Operators that look at the shape of their input alone."""
PADDING = Operator(lambda node, given: nn.functional.pad(given, node.get("padding")))
"""What a layer has no padding for."""


class Building:
    """A network in the making.

    Args:
        graph: what the file holds.
        examples: inputs, batch first, of one batch size or of several.
        fixed: the batch size that the file is written for, which shapes in it may repeat; 0: its batch is free.
    """

    def __init__(self, graph: Graph, examples: Sequence[tuple[Tensor, ...]], fixed: int = 0) -> None:
        self.graph, self.fixed = graph, fixed
        self.network = Network([item.name for item in graph.inputs], graph.outputs)
        self.network.output_names = as_names(graph.outputs)
        self.network.eval()
        self.batches = [len(inputs[0]) if inputs and inputs[0].dim() else 1 for inputs in examples]
        names = self.network.inputs
        self.traces: list[dict[str, Any]] = [dict(zip(names, inputs, strict=True)) for inputs in examples]
        self.constants: dict[str, Tensor] = dict(graph.constants)
        self.sizes: dict[str, Sizes] = {}
        self.shared: dict[tuple[str, str], nn.Parameter] = {}
        self.stored: dict[str, str] = {}
        self.uses = counted(name for node in graph.nodes for name in node.inputs)
        self.aliases: dict[str, str] = {}
        self.done: set[int] = set()

    def built(self) -> Network:
        """The network.

        Raises:
            ModelError: a node does not run, or chooses its branch by numbers.
        """
        with torch.no_grad():
            self._add_all(self.graph.nodes)
            self._give_back()
        self.network.forget_unused()
        return self.network

    def _add_all(self, nodes: Sequence[Node]) -> None:
        followers = _followers(nodes)
        for node in nodes:
            if id(node) not in self.done:
                self._add(self._renamed(node), followers)

    def _renamed(self, node: Node) -> Node:
        inputs = tuple(self.aliases.get(name, name) for name in node.inputs)
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        return replace(node, inputs=inputs)

    def _add(self, node: Node, followers: dict[str, list[Node]]) -> None:
        if node.kind in BRANCHES:
            self._branch(node)
        elif node.kind in PLACES or all(self._is_fixed(name) for name in node.inputs):
            self._fold(node)
        else:
            self._emit(*self._with_bias(node, followers))

    def _is_fixed(self, name: str) -> bool:
        return not name or name in self.constants or name in self.sizes

    def _branch(self, node: Node) -> None:
        """Put the branch of a known condition in place."""
        condition = self.constants.get(node.inputs[0])
        if condition is None:
            raise node.refused("chooses a branch by numbers that are not known ahead; export the branch that is used")
        graph = node.get("then_branch" if bool(condition) else "else_branch")
        inner = tuple(nodes_of(graph, node.version))
        prefix = f"{node.name}."
        own = {name for item in inner for name in item.outputs if name}
        renamed = {name: f"{prefix}{name}" for name in own if name in self.uses or name in self.constants}
        inner = tuple(
            replace(
                item,
                inputs=tuple(renamed.get(name, name) for name in item.inputs),
                outputs=tuple(renamed.get(name, name) for name in item.outputs),
            )
            for item in inner
        )
        self.constants |= {item.name: tensor_of(item) for item in graph.initializer}
        for name, count in counted(name for item in inner for name in item.inputs).items():
            self.uses[name] = self.uses.get(name, 0) + count
        self._add_all(inner)
        for outside, inside in zip(node.outputs, graph.output, strict=True):
            name = renamed.get(inside.name, inside.name)
            self.aliases[outside] = self.aliases.get(name, name)
            self.uses[name] = self.uses.get(name, 0) + 2

    def _fold(self, node: Node) -> None:
        """Compute what hangs on no input's numbers; what is no rule of the batch becomes a step after all."""
        operator = OPERATORS[node.kind]
        alone = all(name in self.constants or not name for name in node.inputs)
        traces = range(1 if alone else len(self.traces))
        results = [self._folded(node, operator, trace) for trace in traces]
        found = [rule_of([result[index] for result in results], self.batches) for index in range(len(results[0]))]
        if any(rule is None for rule in found):
            self._emit(node)
            return
        for name, rule in zip(node.outputs, found, strict=False):
            if isinstance(rule, Sizes):
                self.sizes[name] = rule
            elif rule is not None and name:
                self.constants[name] = rule
        for trace, result in enumerate(results):
            self.traces[trace].update((n, r) for n, r in zip(node.outputs, result, strict=False) if n in self.sizes)

    def _folded(self, node: Node, operator: Operator, trace: int) -> list[Tensor]:
        given = [self._traced(name, trace) for name in node.inputs]
        if node.kind in ("ConstantOfShape", "Expand", "Tile") and _numbers(given) > LARGEST_CONSTANT:
            raise node.refused("makes a constant of more than a gigabyte")
        taken = [g.tolist() if i in operator.known and g is not None else g for i, g in enumerate(given)]
        result = _guarded(node, lambda: operator.run(_typed(node, given), *taken))
        return list(result) if isinstance(result, tuple | list) else [result]

    def _traced(self, name: str, trace: int) -> Any:
        if not name:
            return None
        found = self.constants.get(name)
        return self.traces[trace][name] if found is None else found

    def _with_bias(self, node: Node, followers: dict[str, list[Node]]) -> tuple[Node]:
        """A product with a matrix takes the constant that is added to it as its bias."""
        weight = self.constants.get(node.inputs[1]) if node.kind == "MatMul" else None
        after = followers.get(node.outputs[0], [])
        single = len(after) == 1 and node.outputs[0] not in self.graph.outputs and self.uses[node.outputs[0]] == 1
        if weight is None or weight.dim() != 2 or not single or after[0].kind != "Add":
            return (node,)
        other = next((name for name in after[0].inputs if name != node.outputs[0]), "")
        bias = self.constants.get(other)
        if bias is None or bias.numel() != weight.shape[1] or bias.shape[-1:] != weight.shape[1:]:
            return (node,)
        if bias.dim() > max(self._traced(node.inputs[0], 0).dim(), 1):
            return (node,)
        self.done.add(id(after[0]))
        return (replace(node, inputs=(*node.inputs, other), outputs=after[0].outputs),)

    def _emit(self, node: Node) -> None:
        given = [self._traced(name, 0) for name in node.inputs]
        node = _typed(node, given)
        weights = Weights(self.shared, node.inputs, [self.constants.get(name) for name in node.inputs])
        made = layer_for(node, given[0], weights) if given and isinstance(given[0], Tensor) else None
        if made is None:
            self._call(node)
        else:
            self._layer(node, made)

    def _layer(self, node: Node, made: Made) -> None:
        scope, name, path = place(self.network, path_of(node))
        scope.add_module(name, made.layer.eval())
        names = [node.inputs[index] for index in made.inputs if index < len(node.inputs)]
        source, *others = [self._source(name) for name in names]
        if made.padding:
            padded = f"{node.outputs[0]}.padded"
            padder = Node("Pad", node.name, node.inputs[:1], (padded,), {"padding": list(made.padding)}, node.version)
            self._step(Step(padder, PADDING, "", (source,), (padded,)))
            source = Value(padded)
        self._step(Step(node, None, path, (source, *others), node.outputs))

    def _call(self, node: Node) -> None:
        operator = OPERATORS[node.kind]
        given = tuple(self._source(name, as_numbers=index in operator.known) for index, name in enumerate(node.inputs))
        step = Step(node, operator, "", given, node.outputs)
        if node.kind == "Reshape":
            step = self._reshaped(step)
        self._step(step)

    def _reshaped(self, step: Step) -> Step:
        """A Reshape whose shape leaves the batch free, whatever its shape was computed from."""
        if not isinstance(step.given[1], Known | Sizes) or (self.fixed and len(self.traces) < 2):
            return step
        first = 1 if self.fixed else len(self.traces)
        shapes = []
        for trace in range(first):
            values = dict(self.traces[trace])
            _guarded(step.node, lambda v=values, t=trace: self.network.run(step, v, self.batches[t]))
            shapes.append(list(values[step.outputs[0]].shape))
        target = free_shape(shapes, self.fixed)
        return step if target is None else replace(step, given=(step.given[0], Known(target)))

    def _source(self, name: str, *, as_numbers: bool = False) -> Given:
        """Where a step takes a value from."""
        if not name:
            return None
        if name in self.sizes:
            return self.sizes[name]
        if name not in self.constants:
            return Value(name)
        return Known(self.constants[name].tolist()) if as_numbers else Constant(self._store(name))

    def _store(self, name: str) -> str:
        """The path of a constant, registered once."""
        if name not in self.stored:
            tensor = self.constants[name].clone()
            scope, last, path = place(self.network, f"constants.{cleaned(name).replace('.', '_')}")
            trained = tensor.is_floating_point() and tensor.numel() > 1 and bool(tensor.isfinite().all())
            if trained:
                scope.register_parameter(last, nn.Parameter(tensor))
            else:
                scope.register_buffer(last, tensor)
            self.stored[name] = path
        return self.stored[name]

    def _step(self, step: Step) -> None:
        self.network.steps.append(step)
        for values, batch in zip(self.traces, self.batches, strict=True):
            _guarded(step.node, lambda v=values, b=batch: self.network.run(step, v, b))

    def _give_back(self) -> None:
        outputs = [self.aliases.get(name, name) for name in self.graph.outputs]
        self.network.outputs = tuple(self._given_back(name) for name in outputs)

    def _given_back(self, name: str) -> str:
        """The value of an output, its batch first."""
        if name in self.constants:
            self.network.results[name] = Constant(self._store(name))
        elif name in self.sizes:
            self._step(Step(Node("Identity", name), OPERATORS["Identity"], "", (self.sizes[name],), (name,)))
        elif axis := batch_axis([list(trace[name].shape) for trace in self.traces], self.batches):
            moved = f"{name}.first"
            rank = self.traces[0][name].dim()
            order = [axis, *(other for other in range(rank) if other != axis)]
            turn = Node("Transpose", name, (name,), (moved,), {"perm": order})
            self._step(Step(turn, OPERATORS["Transpose"], "", (Value(name),), (moved,)))
            return moved
        return name


def _followers(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            found.setdefault(name, []).append(node)
    return found


def _typed(node: Node, given: Sequence[Any]) -> Node:
    return replace(node, dtypes=tuple(getattr(item, "dtype", None) for item in given))


def _numbers(given: Sequence[Any]) -> int:
    """How many numbers a shape in the inputs asks for, about."""
    sizes = [int(item.clamp_min(1).prod()) for item in given if isinstance(item, Tensor) and item.dtype == torch.int64]
    return max(sizes, default=0)


def _guarded(node: Node, function: Any) -> Any:
    """What ``function`` gives.

    Raises:
        ModelError: it fails, with the node.
    """
    try:
        return function()
    except EdgeCompressError:
        raise
    except Exception as error:  # numbers of any kind come from a file
        raise node.refused(f"does not run: {type(error).__name__}: {first_line(error)}") from error
