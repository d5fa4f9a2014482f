"""ONNX, run by ONNX Runtime: one file with its weights inside, a free batch dimension, readable node names.

PyTorch's exporter (``dynamo=True``) folds batch norm into the convolutions. What comes out is checked rather
than trusted: opset, IR version, and that every link of every planned chain is one node, with nothing added
to it (a chain's views are nodes of their own names).
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from edgecompress.artifacts import Arrays, TensorSpec
from edgecompress.codecs import CODECS
from edgecompress.codecs.ada_tucker import plain
from edgecompress.errors import BatchError, ExportError, FileError, first_line, printable
from edgecompress.files import Json
from edgecompress.models.datasets import of_batch
from edgecompress.plans import CompressionPlan
from edgecompress.settings import Precision
from edgecompress.targets.base import Job, Run
from edgecompress.targets.onnx.codes import Coded, check_folded, coded_layers, put_codes
from edgecompress.targets.onnx.quantization import as_half, as_int8
from edgecompress.targets.onnx.sessions import session
from edgecompress.targets.products import PRODUCTS
from edgecompress.targets.runtime_files import SingleFile

if TYPE_CHECKING:
    import onnx

LARGEST_BYTES = 2**31 - 2**20
"""A protobuf has at most 2 GiB; a little of that is the graph."""
SCOPES = "pkg.torch.onnx.name_scopes"
GRAPH = "model.onnx"
"""The checked graph in full precision, among what targets share."""


@dataclass(frozen=True, slots=True)
class Onnx(SingleFile):
    """``opset`` and ``ir_version`` are what the file must say; ``simplify`` runs onnxsim and keeps what agrees."""

    opset: int = 20
    ir_version: int = 10
    simplify: bool = True
    name: str = "onnx"
    suffix: str = ".onnx"
    summary: str = "one .onnx file for ONNX Runtime, dynamic batch, weights inside"
    extra: str = ""
    needs: dict[str, str] = field(default_factory=lambda: {"onnx": "1.23.2", "onnxruntime": "1.31.1"})
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    batch: int | None = None
    mixes_halves: bool = True

    def export(self, job: Job, path: Path) -> Json:
        """Export, tidy, check and write."""
        import onnx

        coded, model = coded_layers(job.model), plain(job.model)
        _refuse_large(model)
        if coded and job.precision != "fp32":
            raise ExportError(f"{self.name}: a stored model is written as its codes, not as {job.precision}")
        kept, simplified = self._checked(model, job)
        operators = Counter(node.op_type for node in kept.graph.node)
        codes = self._with_codes(kept, coded) if coded else {}
        made, floats = _in_precision(kept, job)
        onnx.save_model(made, path)
        return {
            "opset": self.opset,
            "ir_version": self.ir_version,
            "simplified": simplified,
            "operators": dict(sorted(operators.items())),
            "notices": broken_chains(kept, job.plan),
            **codes,
            **floats,
        }

    def _checked(self, model: nn.Module, job: Job) -> tuple[onnx.ModelProto, bool]:
        """The checked graph in full precision, and whether it was simplified; traced once for all that share it."""
        import onnx

        if job.shared is None:
            return self._made(model, job)
        file = job.shared.folder / GRAPH

        def make() -> bool:
            proto, simplified = self._made(model, job)
            onnx.save_model(proto, file)
            return simplified

        simplified = job.shared.once(GRAPH, make)
        return onnx.load_model(file), simplified

    def _made(self, model: nn.Module, job: Job) -> tuple[onnx.ModelProto, bool]:
        """Trace, tidy, check and simplify a model."""
        proto = self._traced(model, job)
        self._tidy(proto, model)
        self._check_header(proto)
        simplified = self._simplified(proto, job.plan) if self.simplify else None
        return simplified or proto, simplified is not None

    def _with_codes(self, proto: onnx.ModelProto, coded: Sequence[Coded]) -> Json:
        """Weights as codes that a session folds; facts about that."""
        before = Counter(node.op_type for node in proto.graph.node)
        facts = put_codes(proto, coded)
        self._check_header(proto)
        return {"codes": {**facts, "operators_when_loaded": check_folded(proto, before)}}

    def _traced(self, model: nn.Module, job: Job) -> onnx.ModelProto:
        """PyTorch's exporter on a batch of the job's size, or of at least two (one would be taken as fixed).

        Raises:
            ExportError: it refused.
            BatchError: the batch was to be free, and the model's code fixes it.
        """
        inputs, batch = job.inputs, torch.export.Dim("batch")
        given = of_batch(inputs, job.batch or max(2, len(inputs[0])))
        free = None if job.batch else tuple({0: batch} for _ in inputs)
        try:
            with quiet():
                program = torch.onnx.export(
                    model,
                    given,
                    dynamo=True,
                    verbose=False,
                    external_data=False,
                    opset_version=self.opset,
                    input_names=_names("input", len(inputs), taken={name for name, _ in model.named_parameters()}),
                    dynamic_shapes=free,
                )
        except Exception as error:
            cause = error.__cause__ or error
            raise ExportError(
                f"onnx: PyTorch's exporter refused the model: {type(cause).__name__}: {first_line(cause)}"
            ) from error
        assert program is not None
        proto = program.model_proto
        sizes = {spec.shape[0] for spec in map(_spec, proto.graph.input)}
        if job.batch is None and any(isinstance(size, int) for size in sizes):
            fact = "the model's code fixes the batch size"
            raise BatchError(f"{self.name}: {fact}", batch=1, fact=fact)
        return proto

    def _tidy(self, proto: onnx.ModelProto, model: nn.Module) -> None:
        """Names that lead back to the layers; no stack traces or other traces of the machine."""
        layers = {name: _has_matrix(module) for name, module in model.named_modules()}
        used: Counter[str] = Counter()
        for node in proto.graph.node:
            base = f"{_source(node, layers)}/{node.op_type}".lstrip("/")
            used[base] += 1
            node.name = base if used[base] == 1 else f"{base}_{used[base]}"
        _rename_outputs(proto)
        _strip(proto)
        proto.graph.name = "edgecompress"
        proto.producer_name, proto.producer_version, proto.doc_string = "edgecompress", "", ""

    def _simplified(self, proto: onnx.ModelProto, plan: CompressionPlan | None) -> onnx.ModelProto | None:
        """onnxsim's result if it is valid, computes the same, and neither adds nodes nor loses names; else None."""
        import onnxsim

        try:
            with quiet():
                simplified: onnx.ModelProto
                simplified, valid = onnxsim.simplify(proto)
                del simplified.metadata_props[:]
            if not valid or not _is_simpler(simplified, proto) or not _agree(proto, simplified):
                return None
            if broken_chains(simplified, plan) != broken_chains(proto, plan):
                return None
            self._check_header(simplified)
        except Exception:  # an optional improvement: whatever stops it, the unsimplified model stands
            return None
        return simplified

    def _check_header(self, proto: onnx.ModelProto) -> None:
        import onnx

        opsets = {entry.domain: entry.version for entry in proto.opset_import}
        if opsets.get("") != self.opset or proto.ir_version != self.ir_version:
            raise ExportError(
                f"onnx: asked for opset {self.opset} and IR {self.ir_version}, the exporter wrote opset "
                f"{opsets.get('')} and IR {proto.ir_version}"
            )
        try:
            onnx.checker.check_model(proto, full_check=True)
        except onnx.checker.ValidationError as error:
            raise ExportError(f"onnx: the exporter wrote an invalid graph: {first_line(error)}") from error

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Names, dtypes and shapes as the file declares them."""
        graph = _read(path).graph
        return tuple(map(_spec, graph.input)), tuple(map(_spec, graph.output))

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """A session on the CPU provider."""
        try:
            opened = session(str(path), threads)
        except Exception as error:
            raise _unreadable(path, error) from error
        names = [output.name for output in opened.get_outputs()]

        def run(inputs: Arrays) -> Arrays:
            return dict(zip(names, opened.run(names, inputs), strict=True))

        return run

    def weight_bytes(self, path: Path) -> int | None:
        """Bytes of all initializers."""
        import onnx

        arrays = (onnx.numpy_helper.to_array(tensor) for tensor in _read(path).graph.initializer)
        return sum(array.nbytes for array in arrays)


def _refuse_large(model: nn.Module) -> None:
    """Refuse at once what no single .onnx can hold.

    Raises:
        ExportError: the weights are too large.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if size > LARGEST_BYTES:
        raise ExportError(
            f"onnx: the weights take {size / 1e9:.1f} GB, one .onnx holds {LARGEST_BYTES / 1e9:.1f} GB at most, as do "
            "targets made from it; compress more, or choose litert or executorch"
        )


def _in_precision(proto: onnx.ModelProto, job: Job) -> tuple[onnx.ModelProto, Json]:
    """As it is, in half precision, or in int8; with facts about what stayed in float."""
    if job.precision == "fp32":
        return proto, {}
    with quiet():
        if job.precision == "fp16":
            return as_half(proto, job.calibration, job.keep)
        return as_int8(proto, job.calibration, job.keep, job.shared.folder if job.shared else None)


def _run_bytes(model: bytes, feed: Arrays) -> Arrays:
    opened = session(model)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, feed), strict=True))


def _read(path: Path) -> onnx.ModelProto:
    """A whole model in one file.

    Raises:
        FileError: it cannot be read, or keeps weights in another file.
    """
    import onnx

    try:
        proto = onnx.load_model(path, load_external_data=False)
        _refuse_elsewhere(path, proto.graph)
        onnx.checker.check_model(proto)
    except FileError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    return proto


def _refuse_elsewhere(path: Path, graph: onnx.GraphProto) -> None:
    """Weights in other files are not covered by a digest or a size of this one, and may lie anywhere."""
    for tensor in graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            where = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
            raise FileError(
                f"{path}: keeps {printable(tensor.name)} in another file ({printable(where)}); make it one file: "
                "onnx.save_model(onnx.load_model(FILE), FILE, save_as_external_data=False)"
            )
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                _refuse_elsewhere(path, attribute.g)
            if attribute.type == attribute.TENSOR and attribute.t.data_location == attribute.t.EXTERNAL:
                raise FileError(f"{path}: keeps a constant in another file; make it one file")


def _unreadable(path: Path, error: Exception) -> FileError:
    return FileError(f"{path}: not a whole ONNX model, or not one ONNX Runtime can run ({first_line(error)[:200]})")


def _names(stem: str, count: int, taken: set[str]) -> list[str]:
    """``input``, or ``input_0``, ``input_1`` ...; longer where a weight of the model has such a name."""
    names = [stem] if count == 1 else [f"{stem}_{index}" for index in range(count)]
    return names if not taken.intersection(names) else _names(f"model_{stem}", count, taken)


def _has_matrix(module: nn.Module) -> bool:
    """Whether a module itself owns a weight of two or more dimensions, so that its node is a product."""
    return any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))


def _is_simpler(simplified: onnx.ModelProto, proto: onnx.ModelProto) -> bool:
    """No more nodes of any kind, no node under a name of its own, no larger file."""
    before, after = (Counter(node.op_type for node in model.graph.node) for model in (proto, simplified))
    names = {node.name for node in proto.graph.node}
    named = all(node.name in names for node in simplified.graph.node)
    return named and after <= before and simplified.ByteSize() <= proto.ByteSize() * 1.01 + 1024


def _agree(proto: onnx.ModelProto, simplified: onnx.ModelProto) -> bool:
    """Whether two models compute the same on a small feed."""
    import numpy as np

    feed = _small_feed(proto)
    before, after = (_run_bytes(model.SerializeToString(), feed) for model in (proto, simplified))
    return all(np.allclose(before[name], after[name], rtol=1e-4, atol=1e-5) for name in before)


def _rename_outputs(proto: onnx.ModelProto) -> None:
    """Call the outputs ``output`` or ``output_0``, ``output_1`` ...

    What is an input, a constant or an output already becomes an output of its own.
    """
    graph = proto.graph
    _own_outputs(graph)
    taken = {name for node in graph.node for name in node.input} | {tensor.name for tensor in graph.initializer}
    wanted = _names("output", len(graph.output), taken - {value.name for value in graph.output})
    renamed = {value.name: new for value, new in zip(graph.output, wanted, strict=True)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for value in graph.output:
        value.name = renamed.get(value.name, value.name)


def _own_outputs(graph: onnx.GraphProto) -> None:
    import onnx

    taken = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for index, value in enumerate(graph.output):
        if value.name in taken:
            name = f"{value.name}_as_output_{index}"
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [name], f"output_{index}/Identity"))
            value.name = name
        taken.add(value.name)


def _source(node: onnx.NodeProto, layers: dict[str, bool]) -> str:
    """The layer a node comes from; ``layers`` says of each module whether it owns a matrix.

    The deepest module in the recorded scopes, if that is a layer with a matrix; else the owner of the node's weight
    (a batch norm folded into a convolution leaves the norm's scope); else the deepest module. Layers with equal
    weights share one, so the owner alone would name the wrong layer.
    """
    deepest = next((scope for scope in reversed(_scopes(node)) if scope in layers), "")
    if layers.get(deepest):
        return deepest
    owners = (name.removesuffix(".weight") for name in node.input if name.endswith(".weight"))
    return next((owner for owner in owners if owner in layers), deepest)


def _scopes(node: onnx.NodeProto) -> list[str]:
    recorded = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    try:
        return [str(scope) for scope in ast.literal_eval(recorded)]
    except (ValueError, SyntaxError):
        return []


def _strip(proto: onnx.ModelProto) -> None:
    """Drop doc strings and metadata everywhere: they hold paths and would differ between machines."""
    graph = proto.graph
    for item in (proto, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.doc_string = ""
        del item.metadata_props[:]


def broken_chains(proto: onnx.ModelProto, plan: CompressionPlan | None) -> list[str]:
    """In words, each link of a planned layer that is not there as it should be: merged, lost or wrapped.

    A link is one product; a Linear on inputs of three or more dimensions is a MatMul and, with a bias, an Add. Numbers
    decide whether the file is right: a converter may write a link another way, or leave out what no output needs.
    """
    from edgecompress.decompositions import DECOMPOSITIONS

    found_broken: list[str] = []
    nodes: dict[str, list[str]] = {}
    for node in proto.graph.node:
        nodes.setdefault(node.name.rpartition("/")[0], []).append(node.op_type)
    for layer in plan.layers if plan else ():
        if layer.method in CODECS:
            continue
        allowed = {*PRODUCTS["onnx"], *(("Add",) if len(layer.shape) == 2 else ("Pad",))}
        for link in DECOMPOSITIONS[layer.method].links:
            found = nodes.get(".".join(filter(None, (layer.name, link))), [])
            stray = [operator for operator in found if operator not in allowed]
            if stray or not PRODUCTS["onnx"].intersection(found):
                what = f"holds {', '.join(stray)}" if stray else "is not in the graph"
                found_broken.append(f"{layer.name}: the link {link!r} of its {layer.method} chain {what}")
    return found_broken


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    import onnx

    kind = value.type.tensor_type
    shape = tuple(d.dim_param or "?" if not d.HasField("dim_value") else d.dim_value for d in kind.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)


def _small_feed(proto: onnx.ModelProto) -> Arrays:
    """A small valid feed: seeded normal numbers, or zeros for integer inputs; free dimensions are 2."""
    import numpy as np

    generator = np.random.default_rng(0)
    feed: Arrays = {}
    for spec in map(_spec, proto.graph.input):
        shape = [size if isinstance(size, int) else 2 for size in spec.shape]
        values = generator.standard_normal(shape) if spec.dtype.startswith("float") else np.zeros(shape)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter's remarks and dumps off the user's terminal; what matters is in the exception."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled)
