"""OpenVINO: .xml and .bin, from the checked .onnx (for int8 from its QDQ form)."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompress.files import Json
from edgecompress.targets.base import Job, Precision
from edgecompress.targets.converting import Given, check_products, converted, require
from edgecompress.targets.files import RuntimeFile

PRODUCTS = {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
ONNX_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class OpenVINO(RuntimeFile):
    """fp16 keeps weights in half precision; the device decides what it computes in."""

    name: str = "openvino"
    suffix: str = ".xml"
    summary: str = "OpenVINO's .xml and .bin, dynamic batch"
    extra: str = "openvino"
    needs: dict[str, str] = field(default_factory=lambda: {"openvino": "2026.4.1"})
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    batch: int | None = None

    def export(self, job: Job, path: Path) -> Json:
        """Write the .onnx in full precision or int8, have it converted, and compare the operators."""
        require(self)
        facts = converted(self, job, path)
        expected = sum(facts["onnx_operators"].get(name, 0) for name in ONNX_PRODUCTS)
        check_products(self.name, Counter(facts["operators"]), PRODUCTS, expected)
        return {key: value for key, value in facts.items() if key != "onnx_operators"}

    def convert(self, given: Given, path: Path) -> Json:
        """By OpenVINO's own ONNX frontend."""
        without_telemetry()
        import onnx
        import openvino

        model: Any = openvino.convert_model(str(given.source))
        openvino.save_model(model, str(path), compress_to_fp16=given.precision == "fp16")
        kept = Counter(operator.get_type_name() for operator in model.get_ops())
        graph = onnx.load_model(given.source).graph
        return {
            "operators": dict(sorted(kept.items())),
            "onnx_operators": dict(Counter(node.op_type for node in graph.node)),
        }

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The weights."""
        return (path.with_suffix(".bin"),)

    def weight_bytes(self, path: Path) -> int | None:
        """Size of the .bin."""
        return path.with_suffix(".bin").stat().st_size


def without_telemetry() -> None:
    """Let OpenVINO's converter, which reports its use to its vendor unless told otherwise, find nothing to report with.

    It then takes its own stub; only for this process, the converter's child.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
