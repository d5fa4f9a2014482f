"""The export formats: one file and one line in ``TARGETS`` each."""

from __future__ import annotations

from pathlib import Path

from edgecompress.errors import ExportError, FileError
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

__all__ = ["PRECISIONS", "TARGETS", "Job", "Precision", "Target", "target_named", "target_of"]


def target_named(name: str) -> Target:
    """The entry of ``TARGETS``.

    Raises:
        ExportError: there is none of that name.
    """
    if name not in TARGETS:
        raise ExportError(f"no target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]


def target_of(path: Path) -> Target:
    """The target that a file's ending stands for.

    Raises:
        FileError: no such file, or no target writes such files.
    """
    if not path.exists():
        raise FileError(f"{path}: no such file")
    for target in TARGETS.values():
        if path.name.endswith(target.suffix):
            return target
    raise FileError(f"{path}: not a file any target reads ({', '.join(t.suffix for t in TARGETS.values())})")
