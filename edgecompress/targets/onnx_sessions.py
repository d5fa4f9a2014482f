"""Sessions of ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


def session(model: str | bytes, threads: int = 0, optimised: Path | None = None) -> Any:
    """A session on the CPU provider (``threads`` 0: the runtime's choice).

    With ``optimised`` the graph is written there as it is after the optimisations that hold on every machine.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if optimised is not None:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(optimised)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operators_when_loaded(model: bytes) -> Counter[str]:
    """How many nodes of each kind are left once a session has folded what is constant."""
    import onnx

    with TemporaryDirectory() as folder:
        file = Path(folder) / "optimised.onnx"
        session(model, optimised=file)
        return Counter(node.op_type for node in onnx.load_model(file).graph.node)
