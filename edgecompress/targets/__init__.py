"""The export formats: one file and one line in ``TARGETS`` each."""

from __future__ import annotations

from edgecompress.targets.base import PRECISIONS, Job, Precision, Target
from edgecompress.targets.coreml import CoreML
from edgecompress.targets.executorch import ExecuTorch
from edgecompress.targets.litert import LiteRT
from edgecompress.targets.ncnn import Ncnn
from edgecompress.targets.onnx import Onnx
from edgecompress.targets.openvino import OpenVINO
from edgecompress.targets.ort import Ort

TARGETS: dict[str, Target] = {
    target.name: target for target in (Onnx(), Ort(), LiteRT(), ExecuTorch(), OpenVINO(), Ncnn(), CoreML())
}

__all__ = ["PRECISIONS", "TARGETS", "Job", "Precision", "Target"]
