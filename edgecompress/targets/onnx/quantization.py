"""A checked .onnx in half precision, or with eight-bit weights and activations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgecompress.files import Json
from edgecompress.models.datasets import Inputs, first, in_batches
from edgecompress.targets.mixed_precision import WATCHED, KeepFloat, Magnitudes, Operator, float_facts, float_operators
from edgecompress.targets.onnx.sessions import every_tensor
from edgecompress.targets.products import PRODUCTS

if TYPE_CHECKING:
    import onnx

RANGES = "onnx.ranges.json"


def as_half(proto: onnx.ModelProto, calibration: Inputs, keep: KeepFloat) -> tuple[onnx.ModelProto, Json]:
    """In float16 but for what half precision does not hold on ``calibration``; and facts about that."""
    from edgecompress.targets.onnx import halves

    feeds = _Reader([value.name for value in proto.graph.input], calibration, batch_of(proto)) if calibration else ()
    return halves.as_half(proto, operators_of(proto), feeds, keep)


def as_int8(
    proto: onnx.ModelProto, calibration: Inputs, keep: KeepFloat, shared: Path | None = None
) -> tuple[onnx.ModelProto, Json]:
    """Static QDQ, and facts about what stayed in float.

    Weights symmetric per output channel, activations by their range on ``calibration``; both are signed, which ONNX
    Runtime's documentation names as the first choice for ARM and for x86. Ranges are kept in ``shared`` for another
    call with the same graph.

    Raises:
        ExportError: a pattern of ``keep`` fits nothing.
    """
    import onnx
    from onnxruntime.quantization import quant_pre_process

    names, operators = [value.name for value in proto.graph.input], operators_of(proto)
    wide = wide_tensors(proto, calibration)
    floats = float_operators(operators, [value.name for value in proto.graph.output], keep, wide)
    with TemporaryDirectory() as folder:
        plain, prepared, made = (Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "made"))
        onnx.save_model(proto, plain)
        quant_pre_process(plain, prepared, skip_optimization=True, skip_symbolic_shape=True)
        feeds = _Reader(names, calibration, batch_of(proto))
        _quantize(prepared, made, feeds, list(floats), (shared or Path(folder)) / RANGES)
        quantized = onnx.load_model(made)
    for item in (quantized, *quantized.graph.node):
        del item.metadata_props[:]
    quantized.producer_name, quantized.producer_version = proto.producer_name, proto.producer_version
    return quantized, float_facts(operators, floats)


def _quantize(prepared: Path, made: Path, reader: _Reader, floats: list[str], ranges: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    whole = {
        name: [{"quant_type": QuantType.QInt8, "symmetric": True}] for name in _of_one_scale(onnx.load_model(prepared))
    }
    quantize_static(
        prepared,
        made,
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=floats,
        calibration_cache_path=ranges,
        extra_options={"TensorQuantOverrides": whole} if whole else {},
    )


def _of_one_scale(proto: onnx.ModelProto) -> set[str]:
    """Weights that get one scale for all their channels: of transposed convolutions in groups.

    Their axis 1 holds the output channels of one group, so that a scale for each does not fit the bias's.
    """
    groups = {"group": 1}
    found = set()
    for node in proto.graph.node:
        if node.op_type == "ConvTranspose":
            given = groups | {attribute.name: attribute.i for attribute in node.attribute}
            found |= {node.input[1]} if given["group"] > 1 else set()
    return found


def batch_of(proto: onnx.ModelProto) -> int:
    """The batch size of a graph; one where it is free."""
    size = proto.graph.input[0].type.tensor_type.shape.dim[0]
    return int(size.dim_value) or 1


def operators_of(proto: onnx.ModelProto) -> list[Operator]:
    """The nodes of a tidied graph, whose names begin with their layer's."""
    return [
        Operator(
            node.name,
            node.op_type,
            (node.name.rpartition("/")[0],),
            tuple(node.input),
            tuple(node.output),
            node.name,
            node.op_type in PRODUCTS["onnx"],
        )
        for node in proto.graph.node
    ]


def wide_tensors(proto: onnx.ModelProto, calibration: Inputs) -> set[str]:
    """Tensors of which some numbers are infinite or so large that one int8 scale would leave nothing of the others."""
    found: dict[str, Magnitudes] = {}
    feeds = _Reader([value.name for value in proto.graph.input], first(calibration, WATCHED), batch_of(proto))
    for name, values in every_tensor(proto, feeds):
        found.setdefault(name, Magnitudes()).add(values)
    return {name for name, magnitudes in found.items() if magnitudes.wide()}


class _Reader:
    """What ``quantize_static`` asks for calibration data, in batches of the graph's size."""

    def __init__(self, names: list[str], calibration: Inputs, batch: int) -> None:
        self.items: Iterator[dict[str, Any]] = (
            {name: tensor.numpy() for name, tensor in zip(names, part, strict=True)}
            for part in in_batches(calibration, batch)
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next feed."""
        return next(self.items, None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Itself."""
        return self.items
