"""The export formats: one file and one line in ``TARGETS`` each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.errors import ExportError, FileError
from edgecompress.tables import Table

if TYPE_CHECKING:
    from edgecompress.settings import Precision as Precision
    from edgecompress.targets.base import PRECISIONS as PRECISIONS
    from edgecompress.targets.base import Job as Job
    from edgecompress.targets.base import Target as Target

TARGETS: Table[Target] = Table(
    "edgecompress.targets",
    onnx="onnx:Onnx",
    ort="ort:Ort",
    litert="litert:LiteRT",
    executorch="executorch:ExecuTorch",
    openvino="openvino:OpenVINO",
    ncnn="ncnn:Ncnn",
    coreml="coreml:CoreML",
)

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
        raise FileError.not_exported(path)
    for target in TARGETS.values():
        if path.name.endswith(target.suffix):
            return target
    files = [file for file in sorted(path.iterdir()) if file.suffix == ".onnx"] if path.is_dir() else []
    if files:
        raise FileError(f"{path}: is a folder; name a file in it, as {files[-1]}")
    raise FileError(f"{path}: not a file any target reads ({', '.join(t.suffix for t in TARGETS.values())})")


def __getattr__(name: str) -> Any:
    if name in __all__:
        from edgecompress.targets import base

        return getattr(base, name)
    raise AttributeError(f"module 'edgecompress.targets' has no attribute {name!r}")
