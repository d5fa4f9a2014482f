"""What a .pt2 holds: a graph as JSON and weights as bytes. Nothing is unpickled, no text of the file is evaluated.

The archive is a zip that stores its parts uncompressed (PyTorch, ``torch/export/pt2_archive/PT2_ARCHIVE_SPEC.md``);
``torch.export.load`` would unpickle parts of it and evaluate the expressions of its sizes.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgecompress.errors import ModelError, first_line, printable

SCHEMA = 8
"""Of ``torch._export.serde.schema``, in PyTorch since 2.5."""
LARGEST_GRAPH = 2**28
"""Bytes of JSON."""
LARGEST_REPEATED = 2**24
"""Bytes of a tensor that repeats what is stored, as an expanded one does."""
DTYPES: dict[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}
"""By the numbers of ``ScalarType`` in that schema."""

DAMAGE = (
    *(OSError, EOFError, zipfile.BadZipFile, struct.error, LookupError, TypeError, ValueError, RuntimeError),
    *(AttributeError, ArithmeticError, StopIteration, AssertionError, MemoryError),
)
"""What reading fails with where parts are missing or of another kind."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    """An input of a program: its sizes as it was exported, and at which axes others may be."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    free: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A graph, its inputs, the names of its outputs, and the tensors of its weights by the names that the graph has.

    Args:
        graph: nodes, as JSON.
        inputs: of the user's.
        outputs: names of values.
        keys: of the outputs, where the model gave a dict; else none.
        tensors: weights, buffers and constants; tied ones are one tensor.
        paths: the names that they had in the model that was exported.
        trained: which of them are parameters.
    """

    graph: Json
    inputs: tuple[Given, ...]
    outputs: tuple[str, ...]
    keys: tuple[str, ...]
    tensors: dict[str, Tensor]
    paths: dict[str, str]
    trained: frozenset[str]


def read(path: Path) -> Program:
    """The program in a file.

    Raises:
        ModelError: it is none, or holds what is not read here; says what.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _program(_Parts(archive))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except DAMAGE as error:
        raise ModelError(f"{path}: {damaged(error)}") from None


def damaged(error: Exception) -> str:
    """What is said of a file that is not of the form that it should have."""
    return f"is no program of torch.export, or damaged: {type(error).__name__}: {printable(first_line(error))}"


class _Parts:
    """The parts of an archive, by their names below its only folder."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.names = {name.partition("/")[2]: name for name in archive.namelist()}
        if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
            raise ModelError("is compressed, as no program of torch.export is")

    def bytes(self, name: str) -> bytes:
        return self._archive.read(self.names[name])

    def json(self, name: str) -> Json:
        if self._archive.getinfo(self.names[name]).file_size > LARGEST_GRAPH:
            raise ModelError(f"has a graph of more than {LARGEST_GRAPH:,} bytes")
        found = json.loads(self.bytes(name))
        if not isinstance(found, dict):
            raise TypeError(f"{name} is no object")
        return found


def _program(parts: _Parts) -> Program:
    model = _only_model(parts)
    document = parts.json(f"models/{model}.json")
    version = document["schema_version"]["major"]
    if version != SCHEMA:
        raise ModelError(f"is of schema {printable(version)}, {SCHEMA} is read; export it with PyTorch 2.9 or newer")
    module = document["graph_module"]
    graph, signature = module["graph"], module["signature"]
    stored = _tensors(parts, "weights", model) | _tensors(parts, "constants", model)
    paths = dict(filter(None, map(_weight, signature["input_specs"])))
    inputs = tuple(_given(name, graph) for name in map(_user_input, signature["input_specs"]) if name)
    tensors = {name: stored[target] for name, target in paths.items()}
    outputs = [_user_output(spec) for spec in signature["output_specs"]]
    keys = _keys(module["module_call_graph"], len(outputs))
    keys = [key for key, name in zip(keys, outputs, strict=False) if name]
    trained = frozenset(spec["parameter"]["arg"]["name"] for spec in signature["input_specs"] if "parameter" in spec)
    return Program(graph, inputs, tuple(filter(None, outputs)), tuple(keys), tensors, paths, trained)


def _only_model(parts: _Parts) -> str:
    names = [name[7:-5] for name in parts.names if name.startswith("models/") and name.endswith(".json")]
    if not names and any(name.startswith("data/aotinductor/") for name in parts.names):
        raise ModelError("is compiled by AOTInductor, its layers are machine code; give what torch.export.save wrote")
    if not names:
        raise ModelError("holds no program of this form; save it again with torch.export.save of PyTorch 2.9 or newer")
    if len(names) > 1:
        raise ModelError(f"holds {len(names)} programs ({printable(', '.join(names))}); save one of them alone")
    return names[0]


def _tensors(parts: _Parts, kind: str, model: str) -> dict[str, Tensor]:
    """Weights or constants by their names in the model; tied ones are one tensor."""
    file = f"data/{kind}/{model}_{kind}_config.json"
    if file not in parts.names:
        raise ModelError(f"has its {kind} in an older form, as a pickle; save it again with PyTorch 2.9 or newer")
    made: dict[str, Tensor] = {}
    shared: dict[str, Tensor] = {}
    for name, item in parts.json(file)["config"].items():
        if item["use_pickle"] or item["tensor_meta"] is None:
            raise ModelError(f"holds {printable(name)} as a pickle, which could run code; it is not opened")
        key = json.dumps([item["path_name"], item["tensor_meta"]], sort_keys=True)
        if key not in shared:
            shared[key] = _tensor(parts.bytes(f"data/{kind}/{item['path_name']}"), item["tensor_meta"])
        made[name] = shared[key]
    return made


def _tensor(content: bytes, meta: Json) -> Tensor:
    dtype = _dtype(meta["dtype"])
    sizes, strides = ([int(item["as_int"]) for item in meta[key]] for key in ("sizes", "strides"))
    offset = int(meta["storage_offset"]["as_int"])
    if 0 in sizes:
        return torch.zeros(sizes, dtype=dtype)
    if math.prod(sizes) * dtype.itemsize > max(len(content), LARGEST_REPEATED):
        raise ValueError("a weight is larger than its bytes")
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if min([offset, *strides, *sizes]) < 0 or (last + 1) * dtype.itemsize > len(content):
        raise ValueError("a weight is larger than its bytes")
    whole = torch.frombuffer(bytearray(content), dtype=dtype)
    return whole.as_strided(sizes, strides, offset).clone(memory_format=torch.contiguous_format)


def _dtype(number: int) -> torch.dtype:
    if number not in DTYPES:
        raise ModelError(f"has numbers of type {printable(number)} of its schema, in which nothing is computed here")
    return DTYPES[number]


def _weight(spec: Json) -> tuple[str, str] | None:
    """The name in the graph and in the model of a parameter, buffer or constant."""
    for kind, field in (("parameter", "parameter_name"), ("buffer", "buffer_name")):
        if kind in spec:
            return spec[kind]["arg"]["name"], spec[kind][field]
    if "tensor_constant" in spec:
        return spec["tensor_constant"]["arg"]["name"], spec["tensor_constant"]["tensor_constant_name"]
    if not spec.keys() & {"user_input", "constant_input"}:
        raise ModelError(f"is given a {printable(next(iter(spec)))}, which is no tensor; export it without")
    return None


def _user_input(spec: Json) -> str:
    """The name of an input; empty for a weight, and for a number or None, which the graph has built in."""
    if "user_input" not in spec:
        return ""
    argument = spec["user_input"]["arg"]
    return str(argument["as_tensor"]["name"]) if "as_tensor" in argument else ""


def _user_output(spec: Json) -> str:
    """The name of the tensor that an output is; empty for a number or None."""
    kind = next(iter(spec))
    if kind in ("buffer_mutation", "parameter_mutation"):
        name = printable(spec[kind].get("buffer_name") or spec[kind].get("parameter_name"))
        raise ModelError(f"changes {name} when it runs; export model.eval()")
    if kind != "user_output":
        raise ModelError(f"gives a {printable(kind)}, which no model here does; export what is used to predict")
    argument = spec[kind]["arg"]
    return str(argument["as_tensor"]["name"]) if "as_tensor" in argument else ""


def _keys(calls: Sequence[Json], count: int) -> list[str]:
    """The keys of the outputs where the model gave a dict of tensors, or what is like one; else none."""
    signature = calls[0].get("signature") if calls else None
    if not signature:
        return []
    _, spec = json.loads(signature["out_spec"])
    context = json.loads(spec["context"]) if isinstance(spec.get("context"), str) else None
    if not isinstance(context, list) or not len(context) == count == len(spec["children_spec"]):
        return []
    return [str(key) for key in context] if all(isinstance(key, str) for key in context) else []


def _given(name: str, graph: Json) -> Given:
    meta = graph["tensor_values"][name]
    shape = tuple(_size(item) for item in meta["sizes"])
    return Given(name, _dtype(meta["dtype"]), shape, tuple("as_int" not in item for item in meta["sizes"]))


def _size(item: Json) -> int:
    """A size, or the one that was exported with where others may be."""
    if "as_int" in item:
        return int(item["as_int"])
    hint = item["as_expr"].get("hint") or {"as_int": 2}
    return int(hint["as_int"])
