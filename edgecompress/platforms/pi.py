"""Small boards with Python, such as a Raspberry Pi, and any other machine with one."""

from __future__ import annotations

from pathlib import Path

from edgecompress.manifests import Runtime, Verified
from edgecompress.platforms.base import OLDEST_ONNX_RUNTIME, ONNX_RUNTIME, TemplatePlatform


class Pi(TemplatePlatform):
    """ONNX Runtime under Python, as ``deploy/pi/run.py`` uses it."""

    name = "pi"
    summary = "Small boards with Python 3.8 or newer, numpy and ONNX Runtime."
    targets = ("onnx", "ort")
    runner = "run.py"
    verified = Verified(
        run_on=(
            "x86-64 Linux, Python 3.11, onnxruntime 1.31.1",
            "Cortex-A72 emulated by QEMU, Python 3.11, onnxruntime 1.31.1",
        ),
        not_run=("a board itself", "Python before 3.11", "edge-model.service"),
    )

    def runtime(self, target: str, folder: Path) -> Runtime:
        """The wheel of 64-bit ARM, as unpacked and as downloaded."""
        del target, folder
        return Runtime(
            name="onnxruntime",
            minimum=OLDEST_ONNX_RUNTIME,
            tested=ONNX_RUNTIME,
            library_bytes=55_916_689,
            library_bytes_compressed=21_413_526,
            source="PyPI: onnxruntime 1.31.1, wheel for aarch64, unpacked and as it is downloaded",
        )

    def check(self, folder: Path) -> str:
        """By the runner."""
        return f"check it anywhere with numpy and onnxruntime: python {folder / self.runner}"
