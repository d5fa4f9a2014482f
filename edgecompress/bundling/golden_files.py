"""The golden files of a bundle: raw tensors, and an image from its bytes to the answer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompress.bundling.png import png
from edgecompress.bundling.preparing import prepare
from edgecompress.errors import DataError, FileError, ModelError
from edgecompress.manifests import ITEM_BYTES, Golden, GoldenImage, Input, Output, Preprocessing, Resized, TensorFile
from edgecompress.sources import resolve_recorded
from edgecompress.targets import target_named
from edgecompress.targets.child_converter import missing

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact

Array = np.ndarray[Any, Any]
FOLDER = "golden"
RESIZED_FROM, RESIZED_TO = (21, 8), (9, 11)
"""Height and width of the case that is resized: fewer rows, more columns."""


def write_golden_files(
    home: Path, artifact: Artifact, inputs: tuple[Input, ...], outputs: tuple[Output, ...]
) -> Golden:
    """Write ``golden/`` into a folder.

    Raises:
        FileError: the artifact's golden pair is not its own, holds no numbers, or a dtype that raw files have not.
    """
    (home / FOLDER).mkdir()
    given, wanted = artifact.golden()
    fed = tuple(_written(home, f"input_{index}", one.name, given[one.name]) for index, one in enumerate(inputs))
    answered = tuple(_written(home, f"output_{index}", one.name, wanted[one.name]) for index, one in enumerate(outputs))
    return Golden(fed, answered, _image(home, artifact, inputs, outputs))


def _written(home: Path, stem: str, name: str, array: Array) -> TensorFile:
    """A tensor's raw file."""
    kind = array.dtype.name
    if kind not in ITEM_BYTES:
        raise FileError(
            f"{name}: a bundle has no tensors of {kind}; export the model with inputs and outputs of others"
        )
    if array.dtype.kind == "f" and (not array.size or np.isnan(array).any() or not np.isfinite(array).any()):
        raise FileError(
            f"{name}: its golden tensor holds NaN or no finite number, which proves nothing; export it again"
        )
    path = f"{FOLDER}/{stem}.bin"
    (home / path).write_bytes(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes())
    return TensorFile(name, path, kind, array.shape)


def read_tensor(home: Path, tensor: TensorFile) -> Array:
    """The inverse; the file's size is right, as :func:`~edgecompress.manifests.consistency.check_consistent` proves."""
    little = np.dtype(tensor.dtype).newbyteorder("<")
    return np.fromfile(home / tensor.path, little).astype(tensor.dtype).reshape(tensor.shape)


def _image(
    home: Path, artifact: Artifact, inputs: tuple[Input, ...], outputs: tuple[Output, ...]
) -> GoldenImage | None:
    """One of the model's own test images where its data is here, else one made by a formula; None: it takes none."""
    taking, steps = inputs[0], inputs[0].preprocessing
    if steps is None:
        return None
    pixels = _test_pixels(artifact, taking)
    pixels = pattern(*steps.size, steps.channels) if pixels is None else pixels
    prepared = prepare(pixels, taking)
    path = f"{FOLDER}/image.png"
    (home / path).write_bytes(png(pixels))
    answers = _answers(artifact, inputs, prepared)
    return GoldenImage(
        pixels=_written(home, "image_pixels", "pixels", pixels),
        png=path,
        prepared=_written(home, "image_prepared", taking.name, prepared),
        outputs=tuple(
            _written(home, f"image_output_{index}", spec.name, answers[spec.name])
            for index, spec in enumerate(outputs)
            if answers
        ),
        resized=_resized(home, taking, steps),
    )


def _resized(home: Path, taking: Input, steps: Preprocessing) -> Resized | None:
    if steps.resize == "none":
        return None
    pixels = pattern(*RESIZED_FROM, steps.channels)
    prepared = prepare(pixels, taking, RESIZED_TO)
    return Resized(
        RESIZED_TO,
        _written(home, "resized_pixels", "pixels", pixels),
        _written(home, "resized_prepared", taking.name, prepared),
    )


def pattern(height: int, width: int, channels: int) -> Array:
    """Bytes (H, W, C) with slopes and edges, by a formula of whole numbers; no two channels are alike."""
    y, x, c = np.ogrid[:height, :width, :channels]
    found: Array = ((7 * x + 13 * y + 85 * c + 3 * (x * y // 8)) % 256).astype(np.uint8)
    return found


def _test_pixels(artifact: Artifact, taking: Input) -> Array | None:
    """The bytes of the first test image, of a model whose code ships with this package and whose data is here."""
    try:
        sample = resolve_recorded(artifact.source, str(artifact.path), trust=False, above=(artifact.path,))
        given = sample.data("test")[0][0]
    except (DataError, FileError, ModelError):
        return None
    steps = taking.preprocessing
    assert steps is not None
    image = np.asarray(given, np.float64)
    if image.shape != (steps.channels, *steps.size):
        return None
    image = image.transpose(1, 2, 0)
    pixels = np.rint((image * np.array(steps.std) + np.array(steps.mean)) / steps.scale)
    if pixels.min() < 0 or pixels.max() > 255:
        return None
    again = (pixels * steps.scale - np.array(steps.mean)) / np.array(steps.std)
    bytes_of = pixels.astype(np.uint8)[:, :, :: -1 if steps.color == "BGR" else 1]
    return bytes_of if np.abs(again - image).max() < 1e-5 else None


def _answers(artifact: Artifact, inputs: tuple[Input, ...], prepared: Array) -> dict[str, Array]:
    """The outputs for the prepared image by the artifact's runtime; none where that is not here or takes more."""
    target = target_named(artifact.target)
    batch = inputs[0].shape[0]
    one_image = len(inputs) == 1 and (batch == 1 or isinstance(batch, str))
    if not one_image or not target.runs_here or missing(target):
        return {}
    return dict(target.load(artifact.path)({inputs[0].name: prepared}))
