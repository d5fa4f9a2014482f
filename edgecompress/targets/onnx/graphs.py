"""Reading a .onnx: a whole model in one file, what it takes and gives, and whether planned chains are in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.artifacts import Arrays, TensorSpec
from edgecompress.codecs import CODECS
from edgecompress.errors import ExportError, FileError, first_line, printable
from edgecompress.plans import CompressionPlan
from edgecompress.targets.onnx.sessions import unreadable
from edgecompress.targets.products import PRODUCTS

if TYPE_CHECKING:
    import onnx


def read(path: Path) -> onnx.ModelProto:
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
        raise unreadable(path, error) from error
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


def check_header(proto: onnx.ModelProto, opset: int, ir_version: int) -> None:
    """Prove that a graph is valid and says these versions.

    Raises:
        ExportError: it is not, or says others.
    """
    import onnx

    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets.get("") != opset or proto.ir_version != ir_version:
        raise ExportError(
            f"requested opset {opset} and IR {ir_version}, the exporter wrote opset "
            f"{opsets.get('')} and IR {proto.ir_version}"
        )
    try:
        onnx.checker.check_model(proto, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the exporter wrote an invalid graph: {first_line(error)}") from error


def spec_of(value: onnx.ValueInfoProto) -> TensorSpec:
    """Name, dtype and shape as the file declares them."""
    import onnx

    kind = value.type.tensor_type
    shape = tuple(d.dim_param or "?" if not d.HasField("dim_value") else d.dim_value for d in kind.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)


def small_feed(proto: onnx.ModelProto) -> Arrays:
    """A small valid feed: seeded normal numbers, or zeros for integer inputs; free dimensions are 2."""
    import numpy as np

    generator = np.random.default_rng(0)
    feed: Arrays = {}
    for spec in map(spec_of, proto.graph.input):
        shape = [size if isinstance(size, int) else 2 for size in spec.shape]
        values = generator.standard_normal(shape) if spec.dtype.startswith("float") else np.zeros(shape)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


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
