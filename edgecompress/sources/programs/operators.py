"""Nodes of a program: which operators may run, and their arguments out of JSON."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from edgecompress.errors import ModelError, printable
from edgecompress.sources.onnx_operators.base import Node, Operator
from edgecompress.sources.programs.archive import DTYPES, Json
from edgecompress.sources.programs.recurrent import RECURRENT, recurrent

PREFIX = "torch.ops.aten."
WORDS = ("approximate", "equation", "indexing", "mode", "padding", "reduce", "reduction", "rounding_mode", "side")
"""Arguments that may be texts; operators that take others may open files."""
NUMBERS: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow", "eq", "ne", "le", "lt", "ge", "gt")
} | {"torch.sym_max": max, "torch.sym_min": min, "math.trunc": int, "torch.sym_float": float}
"""Arithmetic of sizes."""
PRIVATE = re.compile(
    r"_(adaptive_avg_pool\dd|cdist_forward|embedding_bag|fft_\w+|local_scalar_dense|log_softmax|softmax"
    r"|native_batch_norm_legit\w*|reshape_alias|scaled_dot_product_\w+|to_copy|trilinear|unsafe_index"
    r"|unsafe_view|upsample\w+|weight_norm\w*)"
)
"""Operators of PyTorch's own that programs do hold; others trust their arguments, as those below do."""
TRUSTING = re.compile(
    r"(mkldnn|miopen|cudnn|mps|fbgemm|quantized?|sparse)_.*|.*_backward|set_?|resize_.*|record_stream"
)
CHECKS = ("_assert_", "sym_constrain_range")
"""Beginnings of operators that only check."""
LAYOUTS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}
"""Memory formats by their numbers in the schema."""
NUMBER = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
SINGLE = (torch.float16, torch.bfloat16, torch.float64)
"""Taken in float32."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of an input among the arguments of an operator, by its number."""

    index: int


@dataclass(frozen=True, slots=True)
class Call:
    """A node in the making: what it calls, arguments with slots in the places of values, and these values."""

    node: Node
    run: Callable[..., Any]
    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    names: tuple[str, ...]

    def operator(self) -> Operator:
        """It as an operator that is given the values."""
        run, positional, named = self.run, self.positional, self.named

        def call(_node: Node, *values: Any) -> Any:
            return run(*_put(positional, values), **_put(named, values))

        return Operator(call)

    def argument(self, name: str) -> Any:
        """An argument by the name that its operator has for it, or its default; a :class:`Slot` of a value."""
        for index, item in enumerate(schema_of(self.run)):
            if item.name == name:
                given = self.positional[index] if index < len(self.positional) else self.named.get(name, self)
                return item.default_value if given is self else given
        raise LookupError(name)


def schema_of(run: Callable[..., Any]) -> Any:
    """The arguments of an operator of PyTorch; none of anything else."""
    schema = getattr(run, "_schema", None)
    return schema.arguments if schema is not None else ()


def is_check(node: Json) -> bool:
    """Whether a node gives nothing, and only asks whether inputs are as they were when it was exported."""
    target = str(node["target"])
    name = target.removeprefix(PREFIX)
    return name != target and name.startswith(CHECKS)


def call_of(node: Json) -> Call:
    """A node of the graph.

    Raises:
        ModelError: its operator, or an argument, is none that is known here.
    """
    target = str(node["target"])
    outputs = tuple(_output_names(node))
    name = str(node.get("name") or (outputs[0] if outputs else target))
    shown = Node(printable(target.removeprefix(PREFIX)), printable(name), (), outputs)
    run, names = _function(target, shown), list[str]()
    positional, named = [], {}
    for item in node["inputs"]:
        if "as_string" in item["arg"] and item["name"] not in WORDS:
            raise shown.refused(f"takes a text, {printable(item['name'])}, which is not passed on")
        value = _argument(item["arg"], names, shown)
        if item.get("kind") == 2:
            named[str(item["name"])] = value
        else:
            positional.append(value)
    made = Node(shown.kind, shown.name, tuple(names), outputs)
    return Call(made, run, tuple(positional), named, tuple(names))


def _function(target: str, shown: Node) -> Callable[..., Any]:
    """What a target calls: an operator of ATen, or arithmetic."""
    if target in NUMBERS:
        return _arithmetic(NUMBERS[target])
    name, _, overload = target.removeprefix(PREFIX).partition(".")
    packet = getattr(torch.ops.aten, name, None) if target.startswith(PREFIX) and _is_public(name) else None
    run = getattr(packet, overload, None) if overload in getattr(packet, "overloads", list)() else None
    if run is None or (name in RECURRENT and overload != "input"):
        raise shown.refused("is not an operator of PyTorch itself that is known here; export without it")
    return recurrent(run) if name in RECURRENT else run


def _is_public(name: str) -> bool:
    """Whether an operator looks at the sizes that it is given before it reads or writes there."""
    return name.isidentifier() and bool(PRIVATE.fullmatch(name) if name[0] == "_" else not TRUSTING.fullmatch(name))


def _arithmetic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers alone, which gives no number that takes long to write."""

    def computed(*given: Any) -> Any:
        if any(not isinstance(item, NUMBER) or (isinstance(item, int) and abs(item) >= 2**63) for item in given):
            raise ValueError("is given what is no number of 64 bits")
        if function is operator.pow and isinstance(given[1], int) and abs(given[1]) > 64:
            raise ValueError(f"raises a number to the power of {given[1]}")
        return function(*given)

    return computed


def _output_names(node: Json) -> list[str]:
    names: list[str] = []
    for item in node["outputs"]:
        kind, value = next(iter(item.items()))
        found = value if isinstance(value, list) else [value]
        names += [str(one.get("name") or one.get("as_name") or "") if isinstance(one, dict) else "" for one in found]
        if kind not in ("as_tensor", "as_tensors", "as_none", "as_sym_int", "as_sym_bool", "as_sym_float"):
            raise ModelError(f"{printable(node['target'])} gives {printable(kind)}, which is not known here")
    return names


def _argument(argument: Json, names: list[str], node: Node) -> Any:
    """An argument as its operator takes it; values become slots, their names are added to ``names``."""
    kind, value = next(iter(argument.items()))
    reader = READERS.get(kind)
    if reader is None:
        raise node.refused(f"has an argument of kind {printable(kind)}, which is not known here")
    return reader(value, names)


def _slot(value: Json, names: list[str]) -> Slot:
    names.append(str(value["name"]))
    return Slot(len(names) - 1)


def _symbol(value: Json, names: list[str]) -> Any:
    """A number that is known, or one that an earlier node gave."""
    if "as_name" in value:
        names.append(str(value["as_name"]))
        return Slot(len(names) - 1)
    return next(iter(value.values()))


def _optional(value: Json, names: list[str]) -> Slot | None:
    return _slot(value["as_tensor"], names) if "as_tensor" in value else None


def _each(reader: Callable[[Any, list[str]], Any]) -> Callable[[Any, list[str]], Any]:
    return lambda value, names: [reader(item, names) for item in value]


def _as_is(value: Any, _names: list[str]) -> Any:
    return value


def _number(value: Any, _names: list[str]) -> float:
    """JSON has texts for infinity and what is no number."""
    return float(value)


def single(dtype: torch.dtype) -> torch.dtype:
    """Floating types in float32."""
    return torch.float32 if dtype in SINGLE else dtype


READERS: dict[str, Callable[[Any, list[str]], Any]] = {
    "as_none": lambda _value, _names: None,
    "as_tensor": _slot,
    "as_tensors": _each(_slot),
    "as_optional_tensor": _optional,
    "as_optional_tensors": _each(_optional),
    "as_int": _as_is,
    "as_ints": _as_is,
    "as_float": _number,
    "as_floats": _each(_number),
    "as_bool": _as_is,
    "as_bools": _as_is,
    "as_string": _as_is,
    "as_sym_int": _symbol,
    "as_sym_ints": _each(_symbol),
    "as_sym_bool": _symbol,
    "as_sym_float": _symbol,
    "as_scalar_type": lambda value, _names: single(DTYPES[value]),
    "as_memory_format": lambda value, _names: LAYOUTS[value],
    "as_layout": lambda _value, _names: torch.strided,
    "as_device": lambda _value, _names: torch.device("cpu"),
}
"""By the names of ``Argument`` in the schema."""


def _put(arguments: Any, values: tuple[Any, ...]) -> Any:
    """Arguments with values in their slots."""
    if isinstance(arguments, Slot):
        return values[arguments.index]
    if isinstance(arguments, list | tuple):
        return type(arguments)(_put(item, values) for item in arguments)
    if isinstance(arguments, Mapping):
        return {key: _put(item, values) for key, item in arguments.items()}
    return arguments
