"""Manifest: what a bundle says of itself in ``manifest.json``. Values here; reading and refusing in ``reading``.

The same document as a JSON schema is ``deploy/common/manifest.schema.json``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from edgecompress.files import Json

__all__ = [
    "FILE",
    "KIND",
    "LARGEST_BYTES",
    "MOST_FILES",
    "PATH",
    "VERSION",
    "Golden",
    "GoldenImage",
    "Input",
    "Licences",
    "ListedFile",
    "Manifest",
    "Output",
    "Preprocessing",
    "Resized",
    "Runtime",
    "TensorFile",
    "Verified",
]

KIND, VERSION, FILE = "edgecompress.bundle", 2, "manifest.json"
PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=-]*(/[A-Za-z0-9_][A-Za-z0-9_.+@=-]*)*")
"""Of a file in a bundle, as a whole: relative, forward slashes, no part that begins with a dot."""
LONGEST_PATH, MOST_FILES, LARGEST_BYTES = 200, 2_000, 1 << 24
"""Characters of a path, files of a bundle, bytes of a manifest."""

Role = Literal["model", "golden", "labels", "runtime", "code", "text"]
OutputKind = Literal["logits", "probabilities", "classes", "boxes", "embedding", "image", "tensor"]
Color = Literal["gray", "RGB", "BGR"]
Resize = Literal["none", "stretch", "centre-crop"]
Interpolation = Literal["nearest", "bilinear"]
Layout = Literal["NCHW", "NHWC"]
ROLES: tuple[Role, ...] = get_args(Role)
OUTPUT_KINDS: tuple[OutputKind, ...] = get_args(OutputKind)
COLORS: tuple[Color, ...] = get_args(Color)
RESIZES: tuple[Resize, ...] = get_args(Resize)
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
ITEM_BYTES = {"float32": 4, "float64": 8, "float16": 2, "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1,
              "bool": 1}  # fmt: skip
"""Of one number in a raw file, by dtype."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The library that runs the model; None: not known.

    ``minimum`` is the oldest version that will do, ``tested`` the one that was run; ``library_bytes`` are those of the
    library as an app holds it, ``library_bytes_compressed`` as it is downloaded, ``source`` says where both are from.
    """

    name: str
    minimum: str | None = None
    tested: str | None = None
    library_bytes: int | None = None
    library_bytes_compressed: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How an image of bytes becomes an input, in this order, in double precision and rounded once at the end.

    Args:
        size: height and width of the input.
        color: of the channels; gray is ``(19595 R + 38470 G + 7471 B + 32768) >> 16``, in whole numbers.
        resize: the whole image, or as much of its middle as has the input's proportions; ``none``: it has the size.
        interpolation: ``bilinear`` is a triangle as wide as two pixels of the coarser side, normalised to one.
        scale: factor of a byte.
        mean: subtracted afterwards, by channel.
        std: divided by in the end.
    """

    size: tuple[int, int]
    color: Color
    resize: Resize
    interpolation: Interpolation
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        """One of gray, else three."""
        return 1 if self.color == "gray" else 3


@dataclass(frozen=True, slots=True)
class Input:
    """An input: a string in the shape is a free size; ``layout`` and ``preprocessing`` only of an image."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: Layout | None = None
    preprocessing: Preprocessing | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """An output; ``labels`` is the path of a text file with the name of each class, one a line."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    kind: OutputKind = "tensor"
    labels: str | None = None


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A tensor as a raw file: its numbers, little-endian, last axis fastest, and nothing else."""

    name: str
    path: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """What the file must have."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Resized:
    """Bytes (H, W, C) of another size, and what :class:`Preprocessing` with ``size`` makes of them."""

    size: tuple[int, int]
    pixels: TensorFile
    prepared: TensorFile


@dataclass(frozen=True, slots=True)
class GoldenImage:
    """One image from its bytes to the answer.

    Args:
        pixels: uint8 (H, W, C) of the input's size, gray or RGB.
        png: the path of the same pixels as a PNG, for a platform's own decoder.
        prepared: what preprocessing makes of them, with a batch of one.
        outputs: of the model for that; empty where they could not be had.
        resized: a smaller case that has to be resized; None where nothing is.
        tolerance: of prepared numbers, as a fraction of the largest.
        png_tolerance: of decoded bytes.
    """

    pixels: TensorFile
    png: str
    prepared: TensorFile
    outputs: tuple[TensorFile, ...] = ()
    resized: Resized | None = None
    tolerance: float = 1e-6
    png_tolerance: int = 1

    def tensors(self) -> Iterator[TensorFile]:
        """All raw files."""
        yield from (self.pixels, self.prepared, *self.outputs)
        if self.resized is not None:
            yield from (self.resized.pixels, self.resized.prepared)


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs, what PyTorch gave for them, and an image where the model takes one."""

    inputs: tuple[TensorFile, ...]
    outputs: tuple[TensorFile, ...]
    image: GoldenImage | None = None


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of the bundle."""

    path: str
    role: Role
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Licences:
    """Of the model and of the runtime that lies in the bundle; None: not known, or none lies there."""

    model: str | None = None
    runtime: str | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What the platform's files were compiled with, what they were run on, and what of them was not run, in words."""

    compiled_with: tuple[str, ...] = ()
    run_on: tuple[str, ...] = ()
    not_run: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself; all paths are relative to the manifest's own folder.

    Args:
        platform: a name in ``PLATFORMS``.
        model: the model's name.
        model_file: the path of the model, which may be a folder of listed files.
        target: its format.
        precision: fp32, fp16 or int8.
        runner: the path of what checks the bundle and answers; None in a part that an app ships without it.
        tolerance: of outputs, as a fraction of the largest expected one.
        runtime: the library that runs the model.
        inputs: of the model, in its order.
        outputs: of the model, in its order.
        golden: what has to come out for what.
        licences: of model and runtime.
        verified: where the platform's files were proved.
        files: all of them but the manifest itself.
        facts: parity, cost, graph, plan, versions and profile as the artifact has them, for people.
        notes: what the model's preprocessing says beyond this document.
    """

    platform: str
    model: str
    model_file: str
    target: str
    precision: str
    runner: str | None
    tolerance: float
    runtime: Runtime
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    golden: Golden
    licences: Licences = Licences()
    verified: Verified = Verified()
    files: tuple[ListedFile, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> Json:
        """A JSON object with kind and version; the facts are fields of their own."""
        document = asdict(self)
        facts = document.pop("facts")
        files = document.pop("files")
        return {"kind": KIND, "version": VERSION, **document, **facts, "files": files}

    def bytes_of(self, role: Role) -> int:
        """Of all files of a role."""
        return sum(file.size_bytes for file in self.files if file.role == role)

    def below(self, folder: str) -> Manifest:
        """The same seen from a folder ``folder`` above; empty: unchanged."""
        return replace(self, **_moved(self, f"{folder}/")) if folder else self


def _moved(manifest: Manifest, start: str) -> dict[str, Any]:
    golden = manifest.golden
    return {
        "model_file": start + manifest.model_file,
        "outputs": tuple(replace(one, labels=one.labels and start + one.labels) for one in manifest.outputs),
        "files": tuple(replace(file, path=start + file.path) for file in manifest.files),
        "golden": Golden(
            tuple(_tensor_moved(one, start) for one in golden.inputs),
            tuple(_tensor_moved(one, start) for one in golden.outputs),
            golden.image and _image_moved(golden.image, start),
        ),
    }


def _image_moved(image: GoldenImage, start: str) -> GoldenImage:
    resized = image.resized
    return replace(
        image,
        pixels=_tensor_moved(image.pixels, start),
        png=start + image.png,
        prepared=_tensor_moved(image.prepared, start),
        outputs=tuple(_tensor_moved(one, start) for one in image.outputs),
        resized=resized
        and Resized(resized.size, _tensor_moved(resized.pixels, start), _tensor_moved(resized.prepared, start)),
    )


def _tensor_moved(tensor: TensorFile, start: str) -> TensorFile:
    return replace(tensor, path=start + tensor.path)
