"""C: whatever has a C compiler and ONNX Runtime's C library, from small Linux boards to programs in other languages."""

from __future__ import annotations

from pathlib import Path

from edgecompress.manifests import Role, Runtime, Verified
from edgecompress.platforms.base import OLDEST_ONNX_RUNTIME, ONNX_RUNTIME, TemplatePlatform


class Native(TemplatePlatform):
    """A C interface, a command on it and their CMake file; ``model/`` is what goes onto the device."""

    name = "native"
    summary = "C11 and CMake: a small C interface over ONNX Runtime, and a command that checks."
    targets = ("onnx", "ort")
    runner = "edge_check.c"
    payload = "model"
    verified = Verified(
        compiled_with=("gcc 12, -std=c11 -Wall -Wextra -Werror", "aarch64-linux-gnu-gcc 12, the same", "CMake 3.25"),
        run_on=(
            "x86-64 Linux, onnxruntime 1.31.1, with address and undefined behaviour sanitizers too",
            "Cortex-A72 emulated by QEMU, onnxruntime 1.31.1",
        ),
        not_run=(
            "a board itself",
            "Android's NDK, macOS, Windows (which has not the file calls of POSIX)",
            "ONNX Runtime before 1.31",
            "golden/image.png: apps decode PNGs by a library of their own",
        ),
    )

    def runtime(self, target: str, folder: Path) -> Runtime:
        """The library of 64-bit ARM."""
        del target, folder
        return Runtime(
            name="onnxruntime",
            minimum=OLDEST_ONNX_RUNTIME,
            tested=ONNX_RUNTIME,
            library_bytes=25_265_040,
            source="PyPI: onnxruntime 1.31.1, libonnxruntime.so in the wheel for aarch64",
        )

    def role(self, path: str) -> Role:
        """CMake's file is code."""
        return "code" if path == "CMakeLists.txt" else super().role(path)

    def check(self, folder: Path) -> str:
        """Compiled and run."""
        where = folder if folder != Path() else Path("BUNDLE")
        build = f"cmake -S {where} -B build -DONNXRUNTIME_ROOT=DIR && cmake --build build"
        library = "--library DIR/lib/libonnxruntime.so"
        return f"check it, with ONNX Runtime in DIR: {build} && build/edge_check {library} {where / self.payload}"
