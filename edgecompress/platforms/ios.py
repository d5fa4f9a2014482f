"""iOS: a Swift package with the model in it, for ONNX Runtime or for Core ML."""

from __future__ import annotations

from pathlib import Path

from edgecompress.manifests import Role, Runtime, Verified
from edgecompress.platforms.base import (
    OLDEST_ONNX_RUNTIME,
    ONNX_RUNTIME,
    Contents,
    TemplatePlatform,
    copy_template,
)

NOT_RUN = ("Xcode, the iOS SDK, a simulator or an iPhone", "decoding of images by ImageIO")


class Ios(TemplatePlatform):
    """A core without UIKit and without a runtime, a runner of the model's own runtime, and tests for the device."""

    name = "ios"
    summary = "A Swift package with ONNX Runtime or Core ML, the model in it."
    targets = ("onnx", "ort", "coreml")
    runner = "Sources/edge-check/main.swift"
    payload = "Sources/EdgeRuntime/model"
    verified = Verified(
        compiled_with=(
            "Swift 6.0.3 on Linux, against the C header of ONNX Runtime 1.21",
            "parsed for arm64-apple-ios15; the runner of Core ML checked against declarations of ours alone",
        ),
        run_on=("the package for ONNX Runtime on x86-64 Linux, onnxruntime 1.31.1: swift test, edge-check",),
        not_run=(*NOT_RUN, "the package for Core ML, anywhere", "onnxruntime-swift-package-manager"),
    )

    def fill(self, folder: Path, contents: Contents) -> None:
        """What both runtimes share, and the part of the one that the model is for."""
        copy_template("ios/shared", folder)
        copy_template(f"ios/{_runtime_of(contents.artifact.target)}", folder)

    def runtime(self, target: str, folder: Path) -> Runtime:
        """ONNX Runtime, linked into the app, of a size that is not known here; Core ML is a part of the system."""
        del folder
        if _runtime_of(target) == "coreml":
            return Runtime(name="Core ML", minimum="iOS 16", library_bytes=0, source="a part of iOS")
        return Runtime(
            name="onnxruntime",
            minimum=OLDEST_ONNX_RUNTIME,
            tested=ONNX_RUNTIME,
            source="onnxruntime-swift-package-manager; linked statically, what is left of its archive was not measured",
        )

    def role(self, path: str) -> Role:
        """All of it is code."""
        return "text" if path.endswith(".md") else "code"

    def check(self, folder: Path) -> str:
        """By the tests of the package, on the device."""
        where = folder if folder != Path() else "BUNDLE"
        return f"check it in Xcode: add {where} as a local package, and run its tests on the device or simulator"


def _runtime_of(target: str) -> str:
    """The folder of ``deploy/ios`` with the runner."""
    return "coreml" if target == "coreml" else "onnxruntime"
