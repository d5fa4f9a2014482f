"""The export formats: one file and one line in ``TARGETS`` each."""

from __future__ import annotations

from edgecompress.targets.base import Target
from edgecompress.targets.onnx import Onnx

TARGETS: dict[str, Target] = {target.name: target for target in (Onnx(),)}

__all__ = ["TARGETS", "Target"]
