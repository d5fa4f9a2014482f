"""Sessions of ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgecompress.artifacts import Arrays
from edgecompress.errors import FileError, first_line
from edgecompress.targets.base import Run

if TYPE_CHECKING:
    import onnx


EXACT_PRODUCTS = "session.x64quantprecision"
"""Where an x86 processor has no VNNI, products of int8 are summed up in 16 bits, which overflow, unless this is set."""


def session(model: str | bytes, threads: int = 0, optimised: Path | None = None) -> Any:
    """A session on the CPU provider (``threads`` 0: the runtime's choice) that computes int8 as ARM processors do.

    With ``optimised`` the graph is written there as it is after the optimisations that hold on every machine.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is raised
    options.add_session_config_entry(EXACT_PRODUCTS, "1")
    if optimised is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:  # that setting fails (1.31) where products share a weight: then as the graph says, in float32
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load(path: Path, threads: int = 0) -> Run:
    """A .onnx or .ort as a function.

    Raises:
        FileError: it cannot be read.
    """
    try:
        opened = session(str(path), threads)
    except Exception as error:
        raise unreadable(path, error) from error
    names = [output.name for output in opened.get_outputs()]

    def run(inputs: Arrays) -> Arrays:
        return dict(zip(names, opened.run(names, inputs), strict=True))

    return run


def unreadable(path: Path, error: Exception) -> FileError:
    """What to raise for a file that no session opens."""
    return FileError(f"{path}: not a whole ONNX model, or not one ONNX Runtime can run ({first_line(error)[:200]})")


def operators_when_loaded(model: bytes) -> Counter[str]:
    """How many nodes of each kind are left once a session has folded what is constant."""
    import onnx

    with TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        session(model, optimised=file)
        return Counter(node.op_type for node in onnx.load_model(file).graph.node)


def every_tensor(proto: onnx.ModelProto, feeds: Iterable[Arrays]) -> Iterator[tuple[str, Any]]:
    """Name and numbers of each float32 tensor that a graph takes or computes, for each of the feeds."""
    import onnx

    watched = onnx.shape_inference.infer_shapes(proto)
    known = {value.name for value in watched.graph.output}
    for value in watched.graph.value_info:
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and value.name not in known:
            watched.graph.output.append(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, None))
    opened = session(watched.SerializeToString())
    names = [output.name for output in opened.get_outputs() if output.type == "tensor(float)"]
    for feed in feeds:
        yield from ((name, array) for name, array in feed.items() if array.dtype == "float32")
        yield from zip(names, opened.run(names, feed), strict=True)
