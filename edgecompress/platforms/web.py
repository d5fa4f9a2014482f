"""Browsers: a page that checks the model and answers for images, without a server of its own and without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from edgecompress.files import files_in, resource, sha256, zipped_bytes
from edgecompress.manifests import Role, Runtime, Verified
from edgecompress.platforms.base import Contents, TemplatePlatform
from edgecompress.platforms.npm import Package, vendor
from edgecompress.platforms.single_page import one_page

RUNTIME, WORKER = "runtime", "sw.js"
ONNX_RUNTIME = Package(
    "onnxruntime-web",
    "1.30.0",
    {
        "dist/ort.wasm.bundle.min.mjs": (
            "ort.wasm.bundle.min.mjs",
            "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
        ),
        "dist/ort-wasm-simd-threaded.wasm": (
            "ort-wasm-simd-threaded.wasm",
            "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        ),
    },
)
LITERT = Package(
    "@litertjs/core",
    "2.5.3",
    {
        "dist/index.js": ("litert.js", "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3"),
        "wasm/litert_wasm_compat_internal.js": (
            "litert_wasm_compat_internal.js",
            "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
        ),
        "wasm/litert_wasm_compat_internal.wasm": (
            "litert_wasm_compat_internal.wasm",
            "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
        ),
    },
)
LITERT_HELPER = Package(
    "@litertjs/wasm-utils",
    "2.5.3",
    {"dist/index.js": ("wasm-utils.js", "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2")},
)
LIBRARIES = {"onnx": (ONNX_RUNTIME,), "ort": (ONNX_RUNTIME,), "litert": (LITERT, LITERT_HELPER)}
"""By target; the first is what runs the model."""
NAMES = {"@litertjs/core": "LiteRT.js"}
LICENCES = {"onnxruntime-web": "MIT", "@litertjs/core": "Apache-2.0"}


class Web(TemplatePlatform):
    """ONNX Runtime Web or LiteRT.js, one thread, as ``deploy/web`` uses them."""

    name = "web"
    summary = "Browsers: a page that works offline, or one file that opens from file://."
    targets = ("onnx", "ort", "litert")
    runner = "index.html"
    takes = ("single_file", "runtime_dir")
    verified = Verified(
        run_on=(
            "Chromium 156 headless on x86-64 Linux, onnxruntime-web 1.30.0: served, offline, from file://",
            "Chromium 156 headless on x86-64 Linux, LiteRT.js 2.5.3: served, from file://",
        ),
        not_run=("Safari", "Firefox", "a phone", "several threads", "WebGPU"),
    )

    def fill(self, folder: Path, contents: Contents) -> None:
        """The page, the runtime's own files, and a service worker that differs with the bundle."""
        super().fill(folder, contents)
        packages = LIBRARIES[contents.artifact.target]
        for text in (folder / RUNTIME).glob("*.LICENSE"):
            if text.stem != NAMES.get(packages[0].name, packages[0].name):
                text.unlink()
        vendor(packages, folder / RUNTIME, contents.options.runtime_dir)
        worker = folder / WORKER
        worker.write_text(worker.read_text().replace("@BUNDLE@", _identity(folder, contents)))

    def runtime(self, target: str, folder: Path) -> Runtime:
        """What lies in the bundle."""
        library = LIBRARIES[target][0]
        files = [folder / RUNTIME / name for package in LIBRARIES[target] for name, _ in package.files.values()]
        return Runtime(
            name=NAMES.get(library.name, library.name),
            tested=library.version,
            library_bytes=sum(file.stat().st_size for file in files),
            library_bytes_compressed=zipped_bytes(*files),
            source=f"npm: {library.pinned}, its files in runtime/ as they are and after DEFLATE",
        )

    def runtime_licence(self, target: str) -> str | None:
        """Of the library in ``runtime/``."""
        return LICENCES[LIBRARIES[target][0].name]

    def role(self, path: str) -> Role:
        """Libraries lie in ``runtime/``."""
        found = super().role(path)
        return "runtime" if found == "code" and path.startswith(f"{RUNTIME}/") else found

    def page(self, folder: Path) -> bytes:
        """All of it in one page."""
        return one_page(folder)

    def check(self, folder: Path) -> str:
        """In a browser."""
        if folder.suffix == ".html":
            return f"check it in a browser: open {folder}; it says what was checked, and takes images"
        return f"check it in a browser: python {folder / 'serve.py'}, and open the address it prints"


def _identity(folder: Path, contents: Contents) -> str:
    """Another text for another bundle: sixteen digits of what is in it."""
    digests = {file.relative_to(folder).as_posix(): sha256(file) for file in files_in(folder)}
    text = json.dumps([contents.manifest.to_json(), digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def version_of(target: str) -> str:
    """Of the library that runs a target in a browser."""
    return LIBRARIES[target][0].version


def library_files(target: str, to: Path) -> None:
    """Write what runs a target in a browser, and the modules that use it, into the folder ``to``."""
    for name in ("manifest.js", "tensors.js", "measuring.js", "runtimes.js"):
        (to / name).write_bytes((resource("deploy") / "web" / name).read_bytes())
    (to / RUNTIME).mkdir()
    vendor(LIBRARIES[target], to / RUNTIME)
