"""Android: a Gradle module in Kotlin with ONNX Runtime, whose core class has nothing of Android in it."""

from __future__ import annotations

from pathlib import Path

from edgecompress.files import write_text
from edgecompress.manifests import Runtime, Verified
from edgecompress.platforms.base import Contents, TemplatePlatform
from edgecompress.targets import target_named

ONNX_RUNTIME = "1.29.0"
"""Of the AAR in ``deploy/android/build.gradle.kts``."""
LIBRARIES = {
    "arm64-v8a": (32_232_640, 12_154_165),
    "armeabi-v7a": (22_809_264, 10_974_765),
    "x86_64": (38_573_088, 14_162_134),
    "x86": (38_535_920, 14_265_449),
}
"""By ABI: bytes of its native libraries (runtime and JNI), unpacked and as compressed in the AAR."""
PHONES = "arm64-v8a"
OPERATORS = "required_operators_and_types.config"
"""What a ``.ort`` uses, for a build of ONNX Runtime with no more; it lies beside the module, not in the app."""
PAGE = 16_384
"""Bytes that every segment of these libraries is aligned to, in each ABI, as Google Play demands of 64-bit ones."""


class Android(TemplatePlatform):
    """A library module to copy into an app, with a sample app beside it."""

    name = "android"
    summary = "A Gradle module in Kotlin with ONNX Runtime, for Android 7 (API 24) and newer."
    targets = ("onnx", "ort")
    runner = "src/main/kotlin/edge/model/EdgeModel.kt"
    payload = "src/main/assets/edge_model"
    verified = Verified(
        compiled_with=(
            "kotlinc 2.2.21, warnings as errors",
            f"the classes of onnxruntime-android {ONNX_RUNTIME}",
            "the classes of Android 16 (Robolectric's android-all) and OpenJDK 17",
            "androidx.test 1.7.0",
            "R8 8.13.19 (API 24)",
            "the manifests by the merger, the build files against the types, of the Android Gradle plugin 8.13.2",
        ),
        run_on=(
            f"OpenJDK 17 on x86-64 Linux with the Java API of onnxruntime {ONNX_RUNTIME}: the core class",
            "Robolectric 4.16.1 (Android 14 on that JVM): assets, bitmaps, the check activity, the phone's own test",
        ),
        not_run=(
            "the Gradle build",
            "a phone or an emulator, and with it the AAR's own native libraries",
            "a runtime of reduced operators",
        ),
    )

    def fill(self, folder: Path, contents: Contents) -> None:
        """The module, and beside it the operators that a ``.ort`` was exported with."""
        super().fill(folder, contents)
        artifact = contents.artifact
        for file in target_named(artifact.target).companions(artifact.path):
            if file.name.endswith(OPERATORS) and file.is_file():
                lines = file.read_text(encoding="utf-8").splitlines()
                write_text(folder / OPERATORS, "".join(f"{line}\n" for line in lines if not line.startswith("#")))

    def runtime(self, target: str, folder: Path) -> Runtime:
        """What a 64-bit phone gets of the AAR; the other ABIs are in ``source``."""
        del target, folder
        size, compressed = LIBRARIES[PHONES]
        others = "; ".join(f"{abi} {one:,} / {packed:,}" for abi, (one, packed) in LIBRARIES.items() if abi != PHONES)
        return Runtime(
            name="onnxruntime-android",
            minimum="1.20",
            tested=ONNX_RUNTIME,
            library_bytes=size,
            library_bytes_compressed=compressed,
            source=f"AAR {ONNX_RUNTIME}, native libraries of {PHONES}, unpacked and as compressed in it "
            f"(aligned to pages of {PAGE // 1024} KB; {others})",
        )

    def check(self, folder: Path) -> str:
        """By Gradle, here and on a phone."""
        return (
            f"check it with Gradle 8.13 and the Android SDK: gradle -p {folder} testDebugUnitTest here, "
            f"gradle -p {folder} connectedDebugAndroidTest on a phone"
        )
