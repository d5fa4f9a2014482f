"""ONNX, run by ONNX Runtime: one file with its weights inside, a free batch dimension, readable node names.

PyTorch's exporter (``dynamo=True``) folds batch norm into the convolutions. What comes out is checked rather
than trusted: opset, IR version, and that every link of every planned chain is one node, with nothing added
to it (a chain's views are nodes of their own names).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgecompress.artifacts import TensorSpec
from edgecompress.codecs.ada_tucker import materialized
from edgecompress.errors import BatchError, ExportError, LengthError, first_line
from edgecompress.files import Json
from edgecompress.models import unfused_attention
from edgecompress.models.datasets import Inputs, of_batch
from edgecompress.settings import Precision
from edgecompress.targets.base import Job, Run
from edgecompress.targets.onnx.codes import Coded, check_folded, coded_layers, put_codes
from edgecompress.targets.onnx.graphs import broken_chains, check_header, read, spec_of
from edgecompress.targets.onnx.quantization import as_half, as_int8
from edgecompress.targets.onnx.rewrites import rewritten
from edgecompress.targets.onnx.sessions import load
from edgecompress.targets.onnx.simplifying import simplified
from edgecompress.targets.onnx.tidying import tidy, value_names
from edgecompress.targets.quieting import quiet
from edgecompress.targets.refusing import BY_VALUES, naming
from edgecompress.targets.runtime_files import SingleFile

if TYPE_CHECKING:
    import onnx

CANNOT_VIEW = "Cannot view a tensor"
"""In messages about a tensor that is not contiguous although it was when traced."""

LARGEST_BYTES = 2**31 - 2**20
"""A protobuf has at most 2 GiB; a little of that is the graph."""


@dataclass(frozen=True, slots=True)
class Onnx(SingleFile):
    """``opset`` and ``ir_version`` are what the file must say; ``simplify`` runs onnxsim and keeps what agrees."""

    opset: int = 20
    ir_version: int = 10
    simplify: bool = True
    name: str = "onnx"
    suffix: str = ".onnx"
    summary: str = "one .onnx file for ONNX Runtime, dynamic batch (of tokens: dynamic length too), weights inside"
    extra: str = ""
    needs: dict[str, str] = field(default_factory=lambda: {"onnx": "1.23.2", "onnxruntime": "1.31.1"})
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    batch: int | None = None
    free_length: bool = True
    caches: bool = True
    mixes_halves: bool = True

    def export(self, job: Job, path: Path) -> Json:
        """Export, tidy, check and write."""
        with naming(self.name):
            return self._written(job, path)

    def _written(self, job: Job, path: Path) -> Json:
        import onnx

        coded, model = coded_layers(job.model), materialized(job.model)
        _refuse_large(model)
        if coded and job.precision != "fp32":
            raise ExportError(f"a stored model is written as its codes, not as {job.precision}")
        graph, smaller = self.graph_of(model, job)
        broken = broken_chains(graph, job.plan)
        changed = rewritten(graph, job.rewrites, weights=not coded)
        check_header(graph, self.opset, self.ir_version)
        operators = Counter(node.op_type for node in graph.graph.node)
        codes = self._with_codes(graph, coded) if coded else {}
        made, floats = _in_precision(graph, job)
        onnx.save_model(made, path)
        return {
            "opset": self.opset,
            "ir_version": self.ir_version,
            "simplified": smaller,
            "operators": dict(sorted(operators.items())),
            "notices": broken,
            **({"rewritten": changed} if changed else {}),
            **codes,
            **floats,
        }

    def graph_of(self, model: nn.Module, job: Job) -> tuple[onnx.ModelProto, bool]:
        """The checked graph in full precision, and whether it was simplified; traced once for all that share it.

        Raises:
            ExportError: PyTorch's exporter refused the model, or the graph is not what it should be.
        """
        import onnx

        if job.shared is None:
            return self._made(model, job)
        kind = " with a cache" if job.free else " any length" if job.any_length else ""
        name = f"opset {self.opset}{' simplified' if self.simplify else ''}{kind}.onnx"
        file = job.shared.folder / name

        def make() -> bool:
            proto, smaller = self._made(model, job)
            onnx.save_model(proto, file)
            return smaller

        smaller = job.shared.once(name, make)
        return onnx.load_model(file), smaller

    def _made(self, model: nn.Module, job: Job) -> tuple[onnx.ModelProto, bool]:
        """Trace, tidy, check and simplify a model."""
        proto = self._traced(model, job)
        tidy(proto, model, job.names[1])
        check_header(proto, self.opset, self.ir_version)
        simplify = self.simplify and not job.free  # no feed of one size for all free axes fits such a graph
        smaller = simplified(proto, job.plan, self.opset, self.ir_version) if simplify else None
        return smaller or proto, smaller is not None

    def _with_codes(self, proto: onnx.ModelProto, coded: Sequence[Coded]) -> Json:
        """Weights as codes that a session folds; facts about that."""
        before = Counter(node.op_type for node in proto.graph.node)
        facts = put_codes(proto, coded)
        check_header(proto, self.opset, self.ir_version)
        return {"codes": {**facts, "operators_when_loaded": check_folded(proto, before)}}

    def _traced(self, model: nn.Module, job: Job) -> onnx.ModelProto:
        """PyTorch's exporter on a batch of the job's size, or of at least two (one would be taken as fixed).

        Raises:
            ExportError: it refused.
            BatchError: the batch was to be free, and the model's code fixes it.
            LengthError: the length was to be free, and the model's code fixes it.
        """
        inputs = job.inputs
        given = inputs if job.free else of_batch(inputs, job.batch or max(2, len(inputs[0])))
        free = _free_axes(job)
        options = {
            "dynamo": True,
            "verbose": False,
            "external_data": False,
            "opset_version": self.opset,
            "input_names": value_names("input", len(inputs), _tensors(model), job.names[0]),
            "dynamic_shapes": free,
        }
        try:
            with quiet():
                program = _program(model, given, options)
        except Exception as error:
            cause = error.__cause__ or error
            fact = f"PyTorch's exporter refused the model: {type(cause).__name__}: {first_line(cause)}"
            if job.any_length and BY_VALUES not in fact:
                raise LengthError(fact, fact=f"for any length {fact}") from error
            if job.batch is None and BY_VALUES not in fact:
                raise BatchError(fact, batch=1, fact=f"for any batch size {fact}") from error
            raise ExportError(fact) from error
        assert program is not None
        proto = program.model_proto
        _refuse_fixed(proto, job)
        return proto

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Names, dtypes and shapes as the file declares them."""
        graph = read(path).graph
        return tuple(map(spec_of, graph.input)), tuple(map(spec_of, graph.output))

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """A session on the CPU provider."""
        return load(path, threads)

    def weight_bytes(self, path: Path) -> int | None:
        """Bytes of all initializers."""
        import onnx

        arrays = (onnx.numpy_helper.to_array(tensor) for tensor in read(path).graph.initializer)
        return sum(array.nbytes for array in arrays)


def _free_axes(job: Job) -> tuple[dict[int, torch.export.Dim], ...] | None:
    """The axes of each input that are to be free."""
    if job.free:
        return tuple({axis: torch.export.Dim(name) for axis, name in axes.items()} for axes in job.free)
    axes = {} if job.batch else {0: torch.export.Dim("batch")}
    axes |= {1: torch.export.Dim("positions", min=2)} if job.any_length else {}
    return tuple(dict(axes) for _ in job.inputs) if axes else None


def _refuse_fixed(proto: onnx.ModelProto, job: Job) -> None:
    """Prove that the axes that were to be free are.

    Raises:
        BatchError: the model's code fixes the batch size.
        LengthError: the model's code fixes the length.
    """
    shapes = [spec.shape for spec in map(spec_of, proto.graph.input)]
    if job.any_length and any(isinstance(shape[1], int) for shape in shapes):
        fact = "the model's code fixes the length of sequences"
        raise LengthError(fact, fact=fact)
    if job.batch is None and any(isinstance(shape[0], int) for shape in shapes):
        fact = "the model's code fixes the batch size, as len(x) does and x.shape[0] does not"
        raise BatchError(fact, batch=1, fact=fact)


def _program(model: nn.Module, given: Inputs, options: dict[str, Any]) -> torch.onnx.ONNXProgram | None:
    """PyTorch's exporter; with plain attention where its own leaves another layout than was traced."""
    try:
        return torch.onnx.export(model, given, **options)
    except Exception as error:
        if CANNOT_VIEW not in str(error.__cause__ or error):
            raise
    with unfused_attention():
        return torch.onnx.export(model, given, **options)


def _tensors(model: nn.Module) -> set[str]:
    """Names that a model's weights have in a graph."""
    return {name for name, _ in (*model.named_parameters(), *model.named_buffers())}


def _refuse_large(model: nn.Module) -> None:
    """Refuse at once what no single .onnx can hold.

    Raises:
        ExportError: the weights are too large.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if size > LARGEST_BYTES:
        raise ExportError(
            f"the weights take {size / 1e9:.1f} GB, one .onnx holds {LARGEST_BYTES / 1e9:.1f} GB at most, as do "
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
