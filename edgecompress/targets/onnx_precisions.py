"""A checked .onnx in half precision, or with eight-bit weights and activations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgecompress.datasets import Inputs

if TYPE_CHECKING:
    import onnx


def as_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and arithmetic in float16; inputs and outputs stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    made: onnx.ModelProto = convert_float_to_float16(proto, keep_io_types=True)
    OnnxModel(made).topological_sort()
    return made


def as_int8(proto: onnx.ModelProto, calibration: Inputs) -> onnx.ModelProto:
    """Static QDQ: symmetric weights per output channel, activations by their range on ``calibration``.

    Both are signed, which ONNX Runtime's documentation names as the first choice for ARM and for x86.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_static

    names = [value.name for value in proto.graph.input]
    with TemporaryDirectory() as folder:
        plain, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "made"))
        onnx.save_model(proto, plain)
        quant_pre_process(plain, prepared, skip_optimization=True)
        quantize_static(
            prepared,
            made,
            _Reader(names, calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load_model(made)
    for item in (quantized, *quantized.graph.node):
        del item.metadata_props[:]
    quantized.producer_name, quantized.producer_version = proto.producer_name, proto.producer_version
    return quantized


class _Reader:
    """What ``quantize_static`` asks for calibration data, one item at a time."""

    def __init__(self, names: list[str], calibration: Inputs) -> None:
        self.items: Iterator[dict[str, Any]] = (
            {name: tensor[index : index + 1].numpy() for name, tensor in zip(names, calibration, strict=True)}
            for index in range(len(calibration[0]))
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next feed."""
        return next(self.items, None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Itself."""
        return self.items
