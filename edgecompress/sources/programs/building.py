"""Building a Network from a program: weighted operators become layers by the names of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import EdgeCompressError, ModelError, first_line, printable
from edgecompress.models.forms import as_names
from edgecompress.sources.onnx_graphs.examples import Built, example, items_are_apart
from edgecompress.sources.onnx_graphs.naming import cleaned, place
from edgecompress.sources.onnx_graphs.network import Constant, Given, Network, Step, Value
from edgecompress.sources.onnx_graphs.reading import Input
from edgecompress.sources.programs.archive import Json, Program
from edgecompress.sources.programs.layers import Held, Made, layer_for
from edgecompress.sources.programs.operators import Call, Slot, call_of, is_check, schema_of, single

WRAPPERS = ("torch.ops.higher_order.wrap_with_set_grad_enabled", "torch.ops.higher_order.wrap_with_autocast")
"""What runs a graph of its own once; nothing here is trained in it, nor in half precision."""
VIEWS = ("view.default", "reshape.default", "_unsafe_view.default")
TURNS = ("t.default", "permute.default", "transpose.int", "numpy_T.default")


def built(program: Program) -> Built:
    """The network of a program, for any batch where it can be.

    Raises:
        ModelError: a node is not known, or does not run.
    """
    inputs = inputs_of(program)
    shapes = tuple(given.shape for given in program.inputs)
    whole = example(inputs, shapes)
    network = _checked(Building(program).built(), whole)
    if all(given.free[:1] == (True,) for given in program.inputs):
        return Built(network, shapes, True)
    if all(shape[:1] == (1,) for shape in shapes):
        freed = Building(program, freed=True).built()
        if items_are_apart(freed, example(inputs, shapes, 3)):
            return Built(_checked(freed, whole), shapes, True)
    return Built(network, shapes, False)


def inputs_of(program: Program) -> list[Input]:
    """What the network is given, in single precision at most."""
    return [Input(given.name, single(given.dtype), given.shape) for given in program.inputs]


def _checked(network: Network, inputs: tuple[Tensor, ...]) -> Network:
    """The network, which runs.

    Raises:
        ModelError: it does not, with the node.
    """
    values: dict[str, Any] = dict(zip(network.inputs, inputs, strict=True))
    with torch.no_grad():
        for step in network.steps:
            try:
                network.run(step, values, len(inputs[0]))
            except EdgeCompressError:
                raise
            except Exception as error:  # numbers of any kind come from a file
                raise step.node.refused(f"does not run: {type(error).__name__}: {first_line(error)}") from error
    return network


@dataclass(slots=True)
class _Names:
    """The names of values in a graph inside another: its own get a prefix, its inputs are those of the outer one."""

    prefix: str
    known: dict[str, str]

    def of(self, name: str) -> str:
        return self.known.get(name, self.prefix + name)


class Building:
    """A network in the making.

    Args:
        program: what the file holds, exported for a batch of any size, or of one.
        freed: take shapes that begin with one item for any number of them.
    """

    def __init__(self, program: Program, *, freed: bool = False) -> None:
        self.program, self.freed = program, freed
        self.network = Network([given.name for given in program.inputs], program.outputs)
        self.network.output_names = as_names(program.keys)
        self.network.eval()
        singles: dict[int, Tensor] = {id(tensor): _in_single(tensor) for tensor in program.tensors.values()}
        self.tensors = {name: singles[id(tensor)] for name, tensor in program.tensors.items()}
        self.turned: dict[str, str] = {}
        self.stored: dict[str, str] = {}
        self.layers: dict[tuple[Any, ...], str] = {}
        self.parameters: dict[tuple[int, bool], nn.Parameter] = {}
        self.ranks = {name: len(meta["sizes"]) for name, meta in program.graph["tensor_values"].items()}

    def built(self) -> Network:
        """The network.

        Raises:
            ModelError: an operator is not known.
        """
        names = _Names("", {})
        found = [self._made(call) for call in self._calls(self.program.graph, names)]
        outputs = tuple(names.of(name) for name in self.program.outputs)
        for call, made in _needed(found, outputs):
            self._layer(call, made) if made else self._call(call)
        for name in filter(self.tensors.__contains__, outputs):
            self.network.results[name] = Constant(self._store(name))
        self.network.outputs = outputs
        self.network.forget_unused()
        return self.network

    def _calls(self, graph: Json, names: _Names) -> Iterator[Call]:
        """The calls of a graph, those of graphs inside it in their places."""
        for node in graph["nodes"]:
            if node["target"] in WRAPPERS:
                yield from self._inner(node, names)
            elif not is_check(node):
                call = call_of(node)
                outputs = tuple(name and names.of(name) for name in call.node.outputs)
                inputs = tuple(names.of(name) for name in call.names)
                yield replace(call, node=replace(call.node, inputs=inputs, outputs=outputs), names=inputs)

    def _inner(self, node: Json, names: _Names) -> Iterator[Call]:
        arguments = [item["arg"] for item in node["inputs"]]
        graphs = [argument["as_graph"]["graph"] for argument in arguments if "as_graph" in argument]
        given = [argument["as_tensor"]["name"] for argument in arguments if "as_tensor" in argument]
        results = [one["name"] for item in node["outputs"] for one in _listed(item)]
        if len(graphs) != 1 or len(graphs[0]["inputs"]) != len(given):
            raise ModelError(f"{printable(node['target'])} runs a graph of its own in a way that is not known here")
        own = [item["as_tensor"]["name"] for item in graphs[0]["inputs"]]
        inside = _Names(f"{results[0]}.", {inner: names.of(outer) for inner, outer in zip(own, given, strict=True)})
        yield from self._calls(graphs[0], inside)
        for outer, inner in zip(results, graphs[0]["outputs"], strict=True):
            names.known[outer] = inside.of(inner["as_tensor"]["name"])
        self.ranks |= {inside.of(name): len(meta["sizes"]) for name, meta in graphs[0]["tensor_values"].items()}

    def _made(self, call: Call) -> tuple[Call, Made | None]:
        """A call with its layer, if there is one."""
        if call.node.kind in TURNS and call.names[0] in self.tensors and self.ranks.get(call.names[0]) == 2:
            is_turned = call.node.kind != "permute.default" or list(call.argument("dims")) in ([1, 0], [-1, -2])
            self.turned |= {call.node.outputs[0]: call.names[0]} if is_turned else {}
        return call, layer_for(call, Held(self.tensors, self.turned, self.ranks, self._parameter))

    def _parameter(self, name: str, turned: bool = False) -> nn.Parameter:  # noqa: FBT001, FBT002 - by position
        """The parameter of a weight; tied ones are one."""
        tensor = self.tensors[name]
        made = nn.Parameter(tensor.t().contiguous() if turned else tensor)
        return self.parameters.setdefault((id(tensor), turned), made)

    def _layer(self, call: Call, made: Made) -> None:
        key = (made.weight, call.node.kind, repr(call.positional[1:]), repr(call.named), *call.names[1:])
        if key not in self.layers:
            wanted = cleaned(self.program.paths[made.weight])
            for ending in (".weight", "_weight"):
                wanted = wanted.removesuffix(ending)
            scope, name, self.layers[key] = place(self.network, wanted)
            scope.add_module(name, made.layer.eval())
        given = call.argument(made.given)
        assert isinstance(given, Slot)
        source = self._source(call.names[given.index])
        self.network.steps.append(Step(call.node, None, self.layers[key], (source,), call.node.outputs))

    def _call(self, call: Call) -> None:
        call = _of_any_batch(call) if self.freed and call.node.kind in VIEWS else call
        given = tuple(map(self._source, call.names))
        self.network.steps.append(Step(call.node, call.operator(), "", given, call.node.outputs))

    def _source(self, name: str) -> Given:
        """Where a value comes from: a tensor of the network, or an earlier step."""
        return Constant(self._store(name)) if name in self.tensors else Value(name)

    def _store(self, name: str) -> str:
        """The path of a tensor, registered once by its name in the model."""
        if name not in self.stored:
            scope, last, self.stored[name] = place(self.network, cleaned(self.program.paths[name]))
            if name in self.program.trained and self.tensors[name].is_floating_point():
                scope.register_parameter(last, self._parameter(name))
            else:
                scope.register_buffer(last, self.tensors[name])
        return self.stored[name]


def _listed(output: Json) -> list[Json]:
    found = next(iter(output.values()))
    return found if isinstance(found, list) else [found]


def _in_single(tensor: Tensor) -> Tensor:
    return tensor.to(single(tensor.dtype))


def _needed(found: list[tuple[Call, Made | None]], outputs: tuple[str, ...]) -> list[tuple[Call, Made | None]]:
    """Without calls whose results nobody reads, such as a weight turned for a layer; what writes is kept."""
    wanted, kept = set(outputs), []
    for call, made in reversed(found):
        writes = any(item.alias_info is not None and item.alias_info.is_write for item in schema_of(call.run))
        if writes or wanted & set(call.node.outputs):
            kept.append((call, made))
            given = call.argument(made.given) if made else None
            wanted |= {call.names[given.index]} if isinstance(given, Slot) else set(call.names)
    return kept[::-1]


def _of_any_batch(call: Call) -> Call:
    """A view whose shape begins with one item, for any number of them."""
    data, shape, *rest = call.positional
    if not isinstance(shape, list) or shape[:1] != [1] or -1 in shape:
        return call
    return replace(call, positional=(data, [-1, *shape[1:]], *rest))
