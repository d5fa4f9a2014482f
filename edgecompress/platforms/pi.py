"""Small boards with Python, such as a Raspberry Pi, and any other machine with one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.platforms.base import copy_template

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact


class Pi:
    """ONNX Runtime under Python, as ``deploy/pi/run.py`` uses it."""

    name = "pi"
    summary = "Small boards with Python 3.8 or newer, numpy and ONNX Runtime."
    targets = ("onnx", "ort")
    runner = "run.py"

    def fill(self, folder: Path, artifact: Artifact) -> None:
        """The runner and its requirements."""
        del artifact
        copy_template("pi", folder)

    def check(self, folder: Path) -> str:
        """By the runner."""
        return f"check it anywhere with numpy and onnxruntime: python {folder / self.runner}"
