"""What may have happened to a bundle's folder on its way, for every reader of bundles, in whatever language.

``TAMPERINGS`` holds by name what spoils a folder, in which a manifest lies, and a word of the refusal.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgecompress.files import read_json, sha256

Spoil = Callable[[Path], None]


def rewrite(folder: Path, **fields: Any) -> None:
    """Other fields in the manifest, and right sizes and digests of whatever it lists that is there."""
    manifest = {**read_json(folder / "manifest.json"), **fields}
    for entry in manifest["files"] if isinstance(manifest["files"], list) else ():
        file = folder / entry["path"]
        if file.is_file():
            entry.update(sha256=sha256(file), size_bytes=file.stat().st_size)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def _flip(path: str) -> Spoil:
    def spoil(folder: Path) -> None:
        file = folder / _name(folder, path)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))

    return spoil


def _name(folder: Path, path: str) -> str:
    """The model's own name for ``MODEL``."""
    return str(read_json(folder / "manifest.json")["model_file"]) if path == "MODEL" else path


def _remove(path: str) -> Spoil:
    return lambda folder: (folder / _name(folder, path)).unlink()


def _cut(folder: Path) -> None:
    file = folder / _name(folder, "MODEL")
    file.write_bytes(file.read_bytes()[:-1])


def _add(path: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("this was not here")

    return spoil


def _link(folder: Path) -> None:
    """The same bytes, behind a link that leads out of the folder."""
    name = _name(folder, "MODEL")
    away = folder.parent / f"{folder.name}.away"
    shutil.move(folder / name, away)
    (folder / name).symlink_to(away)


def _path(path: str) -> Spoil:
    """One more file is listed, which is there under that path."""

    def spoil(folder: Path) -> None:
        files = read_json(folder / "manifest.json")["files"]
        rewrite(folder, files=[*files, {**files[0], "path": path}])

    return spoil


def _fields(**fields: Any) -> Spoil:
    return lambda folder: rewrite(folder, **fields)


def _nan(folder: Path) -> None:
    """The golden answers are NaN (a quiet one, as float32), with right digests: whoever compares must not pass."""
    for tensor in read_json(folder / "manifest.json")["golden"]["outputs"]:
        file = folder / tensor["path"]
        file.write_bytes(b"\x00\x00\xc0\x7f" * (file.stat().st_size // 4))
    rewrite(folder)


def _wrong(folder: Path) -> None:
    """Other answers than the model's, with right digests."""
    for tensor in read_json(folder / "manifest.json")["golden"]["outputs"]:
        file = folder / tensor["path"]
        file.write_bytes(b"\x00\x00\x80\x3f" * (file.stat().st_size // 4))
    rewrite(folder)


def _pixels(folder: Path) -> None:
    """Another image, with right digests: what is prepared of it is not what it should be."""
    file = folder / "golden/image_pixels.bin"
    file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    rewrite(folder)


TAMPERINGS: dict[str, tuple[Spoil, str]] = {
    "one bit of the model": (_flip("MODEL"), "model"),
    "one bit of a golden file": (_flip("golden/input_0.bin"), "input_0.bin"),
    "one bit of the labels": (_flip("labels.txt"), "labels.txt"),
    "the model's last byte": (_cut, "model"),
    "the model is missing": (_remove("MODEL"), "model"),
    "a golden file is missing": (_remove("golden/output_0.bin"), "output_0.bin"),
    "the manifest is missing": (_remove("manifest.json"), "manifest"),
    "one file more": (_add("more.txt"), "more.txt"),
    "one file more in a folder that is there": (_add("golden/more.bin"), "more.bin"),
    "one file more in a new folder": (_add("more/more.txt"), "more"),
    "a link": (_link, "model"),
    "a path that leads out": (_path("../model.onnx"), "../model.onnx"),
    "a path from the root": (_path("/etc/hostname"), "/etc/hostname"),
    "a path with a backslash": (_path("..\\model.onnx"), "model.onnx"),
    "an emptied list of files": (_fields(files=[]), "files"),
    "no outputs": (_fields(outputs=[]), "outputs"),
    "no golden tensors": (_fields(golden={"inputs": [], "outputs": [], "image": None}), "inputs"),
    "a manifest that is too large": (_fields(notes={"x": "a" * (1 << 24)}), "manifest"),
    "NaN as golden answers": (_nan, "NaN"),
    "other golden answers": (_wrong, "golden"),
    "another golden image": (_pixels, "image"),
}
"""Of a bundle of a model that takes images."""
