"""What compares files computes int8 on every processor as on ARM, where sums of products do not overflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgecompress.targets.onnx.sessions import session
from edgecompress.targets.runtimes import load

SIZE = 64
ONES = np.ones((1, SIZE), np.float32)


def eight_bit_product(size: int) -> bytes:
    """``x @ ones(size, 1)`` with ``x`` in 0..255 / 255 and both sides in int8."""
    numbers = {
        "step": np.float32(1 / 255),
        "zero": np.int8(-128),
        "weight": np.full((size, 1), 127, np.int8),
        "weight_step": np.float32(1 / 127),
        "weight_zero": np.int8(0),
        "output_step": np.float32(size / 255),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["weight", "weight_step", "weight_zero"], ["w"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "output_step", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "output_step", "zero"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, size])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def test_sums_of_eight_bit_products_do_not_overflow_in_onnx_runtime() -> None:
    (output,) = session(eight_bit_product(SIZE), 1).run(None, {"x": ONES})
    assert abs(output.item() - SIZE) <= SIZE / 255


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the runtime
def test_sums_of_eight_bit_products_do_not_overflow_in_openvino(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    source, file = tmp_path / "product.onnx", tmp_path / "product.xml"
    source.write_bytes(eight_bit_product(SIZE))
    openvino.save_model(openvino.Core().read_model(source), file, compress_to_fp16=False)
    (output,) = load(file, 1)({"x": ONES}).values()
    assert abs(output.item() - SIZE) <= SIZE / 255
