"""ncnn: .ncnn.param and .ncnn.bin, by pnnx from the .onnx at a batch of one."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.errors import ExportError
from edgecompress.files import Json
from edgecompress.settings import Precision
from edgecompress.targets.base import Job
from edgecompress.targets.child_converter import ConversionJob, convert_onnx, require
from edgecompress.targets.runtime_files import WeightsApart

if TYPE_CHECKING:
    import onnx

SIZES = {1: (0,), 2: (1, 0), 3: (2, 1, 0)}
"""The numbers of an Input line's parameters (0 width, 1 height, 2 channels) for a tensor of so many dimensions."""

BATCHED = frozenset({"AveragePool", "Conv", "ConvTranspose", "MaxPool"})
"""Operators by which pnnx finds out that the first axis is the batch, which ncnn has not."""


@dataclass(frozen=True, slots=True)
class Ncnn(WeightsApart):
    """fp16 keeps weights in half precision; int8 needs ncnn's own table tools, which no package ships."""

    name: str = "ncnn"
    suffix: str = ".ncnn.param"
    summary: str = "ncnn's .param and .bin; one item at a time"
    extra: str = "ncnn"
    needs: dict[str, str] = field(default_factory=lambda: {"ncnn": "1.0.20261020", "pnnx": "20261020"})
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    batch: int | None = 1
    one_at_a_time: bool = True
    may_crash: bool = True

    def export(self, job: Job, path: Path) -> Json:
        """Write the .onnx, have it converted, and compare the operators."""
        require(self)
        return convert_onnx(self, job, path)

    def convert(self, job: ConversionJob, path: Path) -> Json:
        """By pnnx, after slices with steps became poolings, which ncnn has."""
        import onnx

        proto = onnx.load_model(job.source)
        kinds = {value.type.tensor_type.elem_type for value in proto.graph.input}
        if kinds != {onnx.TensorProto.FLOAT}:
            raise ExportError("it takes float inputs only")
        refuse_dimensions(job.shapes)
        strides_as_pooling(proto)
        unsaid = not BATCHED & {node.op_type for node in proto.graph.node}
        if unsaid:
            pool_inputs(proto)
        onnx.save_model(proto, job.source)
        shapes = ",".join(f"[{','.join(map(str, shape))}]f32" for shape in job.shapes)
        half = int(job.precision == "fp16")
        code = subprocess.run(
            [_program(), job.source.name, f"inputshape={shapes}", f"fp16={half}"], cwd=job.folder, check=False
        ).returncode
        made = job.source.with_suffix(self.suffix)
        if code or not made.is_file():
            raise ExportError(f"pnnx ended with {code}" if code else "pnnx wrote no file")
        param = made.read_text(encoding="utf-8")
        param = without_pooled_inputs(param) if unsaid else param
        path.write_text(_with_shapes(param, job.shapes), encoding="utf-8")
        shutil.copyfile(made.with_suffix(".bin"), path.with_suffix(".bin"))
        return {"operators": dict(sorted(layers_of(path).items())), "batch": 1}


def refuse_dimensions(shapes: list[list[int]]) -> None:
    """Prove that ncnn has tensors of so many dimensions as inputs of these shapes, batch first.

    Raises:
        ExportError: it has not, as of volumes.
    """
    for shape in shapes:
        if len(shape) - 1 not in SIZES:
            raise ExportError(f"it takes inputs of 1 to {max(SIZES)} dimensions beside the batch, one is {shape}")


def _program() -> Path:
    """pnnx itself; the script of that name beside Python imports PyTorch and only then starts it.

    Raises:
        ExportError: it is not where its package has it.
    """
    package = find_spec("pnnx")
    places = (package.submodule_search_locations if package else None) or ()
    program = next((file for place in places for file in Path(place).glob("pnnx*") if file.stem == "pnnx"), None)
    if program is None:
        raise ExportError("pnnx has no program in its package")
    return program


def layers_of(path: Path) -> Counter[str]:
    """How often each kind of layer is in a .param (magic, counts, then a layer a line)."""
    lines = path.read_text(encoding="utf-8").splitlines()[2:]
    return Counter(line.split()[0] for line in lines if line.strip())


def _with_shapes(param: str, shapes: list[list[int]]) -> str:
    """The .param with the shapes of its inputs, which pnnx leaves out."""
    lines, left = param.splitlines(), list(shapes)
    for at, line in enumerate(lines):
        if line.startswith("Input ") and left:
            shape = left.pop(0)[1:]
            sizes = zip(SIZES[len(shape)], shape, strict=True)
            lines[at] = " ".join([line.rstrip(), *(f"{key}={size}" for key, size in sizes)])
    return "\n".join(lines) + "\n"


def strides_as_pooling(proto: onnx.ModelProto) -> None:
    """Replace ``x[:, :, ::s, ::t]`` by a max pooling of one pixel with strides (s, t), which is the same; in place.

    pnnx drops a slice with steps and then writes a graph that ncnn cannot load.
    """
    import numpy as np
    import onnx

    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "Slice" or len(node.input) < 5:
            continue
        starts, ends, axes, steps = (constants.get(name) for name in node.input[1:5])
        if starts is None or ends is None or axes is None or steps is None or not (np.abs(steps) > 1).any():
            continue
        whole = not starts.any() and (ends >= 2**31 - 1).all() and set(axes.tolist()) <= {2, 3} and (steps > 0).all()
        if whole:
            step = dict(zip(axes.tolist(), steps.tolist(), strict=True))
            kept = onnx.helper.make_node(
                "MaxPool", [node.input[0]], list(node.output), node.name,
                kernel_shape=[1, 1], strides=[step.get(2, 1), step.get(3, 1)],
            )  # fmt: skip
            node.CopyFrom(kept)


def pool_inputs(proto: onnx.ModelProto) -> None:
    """Put a max pooling of one pixel, which is nothing, behind each input with positions; in place.

    Where no layer says which axis is the batch, pnnx keeps it: a flattened image is (1, 784) and not 784 numbers, and
    axes are counted from it. :func:`without_pooled_inputs` takes the poolings away again.
    """
    import onnx

    for value in proto.graph.input:
        positions = len(value.type.tensor_type.shape.dim) - 2
        if positions not in (1, 2):
            continue
        pooled = f"{value.name}/pooled"
        for node in proto.graph.node:
            node.input[:] = [pooled if name == value.name else name for name in node.input]
        pooling = onnx.helper.make_node("MaxPool", [value.name], [pooled], pooled, kernel_shape=[1] * positions)
        proto.graph.node.insert(0, pooling)


def without_pooled_inputs(param: str) -> str:
    """A .param without the poolings that read an input: those of :func:`pool_inputs`."""
    magic, counts, *lines = param.splitlines()
    inputs: set[str] = set()
    renamed: dict[str, str] = {}
    left = []
    for line in lines:
        kind, name, below, above, *rest = line.split()
        blobs, parameters = rest[: int(below) + int(above)], rest[int(below) + int(above) :]
        if kind == "Input":
            inputs.update(blobs)
        if kind.startswith("Pooling") and blobs[0] in inputs:
            renamed[blobs[1]] = blobs[0]
        else:
            left.append(" ".join([kind, name, below, above, *(renamed.get(blob, blob) for blob in blobs), *parameters]))
    layers, blobs_in_all = (int(count) - len(renamed) for count in counts.split())
    return "\n".join([magic, f"{layers} {blobs_in_all}", *left]) + "\n"
