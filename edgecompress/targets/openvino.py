"""OpenVINO: .xml and .bin, from the checked .onnx (for int8 from its QDQ form)."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompress.files import Json
from edgecompress.settings import Precision
from edgecompress.targets.base import Job
from edgecompress.targets.child_converter import ConversionJob, convert_onnx, require
from edgecompress.targets.runtime_files import WeightsApart


@dataclass(frozen=True, slots=True)
class OpenVINO(WeightsApart):
    """fp16 keeps weights in half precision; the device decides what it computes in."""

    name: str = "openvino"
    suffix: str = ".xml"
    summary: str = "OpenVINO's .xml and .bin, dynamic batch"
    extra: str = "openvino"
    needs: dict[str, str] = field(default_factory=lambda: {"openvino": "2026.4.1"})
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    batch: int | None = None
    may_crash: bool = True

    def export(self, job: Job, path: Path) -> Json:
        """Write the .onnx in full precision or int8, have it converted, and compare the operators."""
        require(self)
        return convert_onnx(self, job, path)

    def convert(self, job: ConversionJob, path: Path) -> Json:
        """By OpenVINO's own ONNX frontend."""
        without_telemetry()
        import openvino

        model: Any = openvino.convert_model(str(job.source))
        openvino.save_model(model, str(path), compress_to_fp16=job.precision == "fp16")
        kept = Counter(operator.get_type_name() for operator in model.get_ops())
        return {"operators": dict(sorted(kept.items()))}


def without_telemetry() -> None:
    """Let OpenVINO's converter, which reports its use to its vendor unless told otherwise, find nothing to report with.

    It then takes its own stub; only for this process, the converter's child.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
