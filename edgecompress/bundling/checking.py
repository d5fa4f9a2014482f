"""check(): is a bundle whole and nothing else, and does its model answer as it must, where its runtime is here?"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgecompress.artifacts import Parity, TensorSpec, read_golden
from edgecompress.bundling.archives import unpack
from edgecompress.bundling.golden_files import read_tensor
from edgecompress.bundling.pages import check_page, unpack_page
from edgecompress.bundling.places import folders_of, is_bundle_page
from edgecompress.bundling.preparing import prepare
from edgecompress.errors import FileError, ParityError, printable
from edgecompress.exporting.outputs import compare
from edgecompress.fields import number, text, whole
from edgecompress.files import Json, reading_fields, sha256
from edgecompress.manifests import FILE, LARGEST_BYTES, VERSION, Manifest, TensorFile
from edgecompress.manifests.reading import manifest_document, manifest_from
from edgecompress.targets import TARGETS, target_named
from edgecompress.targets.base import Run
from edgecompress.targets.child_converter import missing

IGNORED = ("__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini")
"""What systems leave behind."""
FIRST_VERSION, PAGE = 1, ".html"


@dataclass(frozen=True, slots=True)
class Checked:
    """What :func:`check` found: errors as fractions of the largest expected number.

    ``not_run`` says why nothing was run; ``image_error`` is None of a model without images.
    """

    model: str
    platform: str
    version: int
    files: int
    golden_error: float | None = None
    image_error: float | None = None
    not_run: str = ""

    @property
    def golden(self) -> str:
        """The golden error, or why there is none."""
        return self.not_run or f"{self.golden_error:.1e}"

    @property
    def image(self) -> str:
        """The image's error in words."""
        return "no image" if self.image_error is None else f"{self.image_error:.1e}"

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "status": "whole; not run here" if self.not_run else "verified",
            "model": self.model,
            "platform": self.platform,
            "version": self.version,
            "files": self.files,
            "golden_error": self.golden_error,
            "image_error": self.image_error,
            "not_run": self.not_run or None,
        }


def is_bundle(path: Path) -> bool:
    """Whether a path is to be checked as a bundle: an archive, a page of ours, or a folder with a manifest."""
    page = path.suffix == PAGE and is_bundle_page(path)
    return page or path.suffix == ".zip" or (path.is_dir() and (path / FILE).exists())


def check(path: str | Path) -> Checked:
    """Prove that a bundle is whole, that nothing else is in it, and that its model answers as it must.

    Args:
        path: its folder, archive or page.

    Returns:
        What was found.

    Raises:
        FileError: the manifest is malformed, a file is missing, changed, a link or not listed.
        ParityError: the model gives other answers, or NaN.
        ExportError: the model does not run.
    """
    path = Path(path)
    with ExitStack() as stack:
        folder = path
        if not path.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgecompress-")))
            (unpack_page if path.suffix == PAGE else unpack)(path, folder)
        document = _document(folder, path)
        if document.get("version") == FIRST_VERSION:
            return _check_first(document, folder, path)
        manifest = manifest_from(document)
        _check_files({file.path: (file.size_bytes, file.sha256) for file in manifest.files}, folder, path)
        if path.suffix == PAGE:
            check_page(path, folder, manifest.platform)
        return _answered(manifest, folder)


def _document(folder: Path, path: Path) -> Json:
    file = folder / FILE
    if file.is_symlink() or not file.is_file():
        raise FileError(f"{path}: {FILE} is missing, or is a link")
    if file.stat().st_size > LARGEST_BYTES:
        raise FileError(f"{path}: {FILE} has more than {LARGEST_BYTES:,} bytes, which no manifest needs")
    return manifest_document(file.read_bytes())


def _check_files(listed: Mapping[str, tuple[int, str]], folder: Path, path: Path) -> None:
    """Every file that is listed is there and whole, and no other."""
    folders = folders_of(listed)
    for entry in sorted(folder.rglob("*")):
        name = entry.relative_to(folder).as_posix()
        if entry.is_symlink():
            raise FileError(f"{path}: {printable(name)} is a symbolic link, and no bundle has one")
        known = name in listed or name in folders or name == FILE
        if not known and not any(part in IGNORED for part in entry.relative_to(folder).parts):
            raise FileError(f"{path}: {printable(name)} is not listed in the manifest; move it elsewhere")
    for name, (size, digest) in listed.items():
        file = folder / name
        if not file.is_file():
            raise FileError(f"{path}: {name} is missing; make the bundle again")
        if file.stat().st_size != size or sha256(file) != digest:
            raise FileError(f"{path}: {name} was changed or damaged: its size or sha256 differs from the manifest's")


def _answered(manifest: Manifest, folder: Path) -> Checked:
    image = _image_error(manifest, folder)
    facts = (manifest.model, manifest.platform, VERSION, len(manifest.files))
    if reason := _not_here(manifest.target):
        return Checked(*facts, image_error=image, not_run=reason)
    target, model, golden = target_named(manifest.target), folder / manifest.model_file, manifest.golden
    _check_signature(manifest, *target.signature(model))
    run = target.load(model)
    worst = _worst(manifest, run, golden.inputs, golden.outputs, folder)
    if golden.image is not None and golden.image.outputs:
        worst = max(worst, _worst(manifest, run, (golden.image.prepared,), golden.image.outputs, folder))
    return Checked(*facts, golden_error=worst, image_error=image)


def _not_here(target: str) -> str:
    """Why a target cannot be run on this machine; nothing: it can."""
    if target not in TARGETS:
        return f"no target {printable(repr(target))} is known here"
    if not TARGETS[target].runs_here:
        return "its runtime is not for this machine"
    lacking = missing(TARGETS[target])
    return f"not installed here: {', '.join(lacking)}" if lacking else ""


def _check_signature(manifest: Manifest, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
    for side, specs, own in (("inputs", manifest.inputs, inputs), ("outputs", manifest.outputs, outputs)):
        if [(one.name, one.dtype, one.shape) for one in specs] != [(one.name, one.dtype, one.shape) for one in own]:
            raise FileError(f"{FILE}: its {side} are not those of {manifest.model_file}; make the bundle again")


def _image_error(manifest: Manifest, folder: Path) -> float | None:
    """How far pixels prepared here are from those of the bundle; None without an image."""
    image, taking = manifest.golden.image, manifest.inputs[0]
    if image is None:
        return None
    pairs: list[tuple[TensorFile, TensorFile, tuple[int, int] | None]] = [(image.pixels, image.prepared, None)]
    if image.resized is not None:
        pairs.append((image.resized.pixels, image.resized.prepared, image.resized.size))
    errors = []
    for pixels, prepared, size in pairs:
        ours, wanted = prepare(read_tensor(folder, pixels), taking, size), read_tensor(folder, prepared)
        found = compare(1, [wanted], [ours])
        errors.append(found.max_abs_error / found.scale)
    if not max(errors) <= image.tolerance:
        raise ParityError(
            f"the golden image is prepared here with an error of {max(errors):.2e} (allowed {image.tolerance:.0e})",
            target=manifest.target,
            max_abs_error=max(errors),
            sqnr_db=-math.inf,
            tolerance=image.tolerance,
        )
    return max(errors)


def _worst(
    manifest: Manifest, run: Run, fed: Sequence[TensorFile], expected: Sequence[TensorFile], folder: Path
) -> float:
    """How far answers are from golden ones, as a fraction of the largest of those; NaN is no answer."""
    answers = run({one.name: read_tensor(folder, one) for one in fed})
    wanted = [read_tensor(folder, one) for one in expected]
    for tensor, numbers in zip(expected, wanted, strict=True):
        if numbers.dtype.kind == "f" and np.isnan(numbers).any():
            raise FileError(f"{tensor.path}: holds NaN, which proves nothing; make the bundle again")
    found = compare(1, wanted, [answers[one.name] for one in expected])
    return _within(found, manifest.tolerance, manifest.target)


def _within(found: Parity, tolerance: float, target: str) -> float:
    """The error as a fraction.

    Raises:
        ParityError: it is beyond the tolerance.
    """
    error = found.max_abs_error / found.scale
    if error <= tolerance:
        return error
    raise ParityError(
        f"the model's answers differ from the golden ones by {error:.2e} of their largest (allowed {tolerance:.0e})",
        target=target,
        max_abs_error=found.max_abs_error,
        sqnr_db=found.sqnr_db,
        tolerance=tolerance,
    )


def _check_first(document: Json, folder: Path, path: Path) -> Checked:
    """A bundle of the first version: files lie in the folder itself, the golden pair is an .npz."""
    with reading_fields(FILE):
        listed = {text(one["path"]): (whole(one["size_bytes"]), text(one["sha256"])) for one in document["files"]}
        names = [text(document[key]) for key in ("model_file", "golden_file", "runner")]
        model, platform, target = (text(document[key]) for key in ("model", "platform", "target"))
        tolerance = number(document["tolerance"])
    strange = [name for name in listed if not name or Path(name).name != name or "\\" in name or name == FILE]
    if strange or not set(names) <= set(listed) or not 0 < tolerance <= 1:
        raise FileError(f"{FILE}: files, model_file, golden_file, runner or tolerance make no bundle")
    _check_files(listed, folder, path)
    facts = (model, platform, FIRST_VERSION, len(listed))
    if reason := _not_here(target):
        return Checked(*facts, not_run=reason)
    inputs, outputs = read_golden(folder / names[1])
    if not inputs or not outputs:
        raise FileError(f"{path}: {names[1]} holds no golden pair, which proves nothing")
    answers = target_named(target).load(folder / names[0])(inputs)
    with reading_fields(f"{path}: {names[1]}"):
        found = compare(1, list(outputs.values()), [answers[name] for name in outputs])
    return Checked(*facts, golden_error=_within(found, tolerance, target))
