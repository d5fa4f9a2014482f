"""Reading a manifest of unknown origin: everything in it is what it must be, or it is refused with the reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from edgecompress.errors import FileError, printable
from edgecompress.fields import optional, text, whole
from edgecompress.files import Json, check_version, reading_fields
from edgecompress.manifests import (
    COLORS,
    INTERPOLATIONS,
    ITEM_BYTES,
    KIND,
    LARGEST_BYTES,
    LAYOUTS,
    LONGEST_PATH,
    OUTPUT_KINDS,
    PATH,
    RESIZES,
    ROLES,
    VERSION,
    Golden,
    GoldenImage,
    Input,
    Licences,
    ListedFile,
    Manifest,
    Output,
    Preprocessing,
    Resized,
    Runtime,
    TensorFile,
    Verified,
)
from edgecompress.manifests import FILE as MANIFEST_FILE
from edgecompress.manifests.consistency import check_consistent

T = TypeVar("T")

FACTS = ("parity", "graph", "cost", "plan", "versions", "profile")


def manifest_document(content: bytes) -> Json:
    """The JSON object in a manifest's bytes, of either version.

    Raises:
        FileError: too large, not JSON, no object, or not of our kind.
    """
    if len(content) > LARGEST_BYTES:
        raise FileError(f"{MANIFEST_FILE}: has more than {LARGEST_BYTES:,} bytes, which no manifest needs")
    try:
        document = json.loads(content.decode(), parse_constant=_refuse, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{MANIFEST_FILE}: not a JSON document ({printable(error)})") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise FileError(f"{MANIFEST_FILE}: its kind is not {KIND}")
    return document


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _object(pairs: list[tuple[str, Any]]) -> Json:
    """An object without a key twice, of which readers would see different ones."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def manifest_from(document: Json) -> Manifest:
    """A manifest of this version.

    Raises:
        FileError: another version, or something in it is missing, malformed or contradicts something else.
    """
    check_version(document, KIND, VERSION)
    with reading_fields(MANIFEST_FILE):
        found = _manifest(document)
    check_consistent(found)
    return found


def is_path(text: str) -> bool:
    """Whether this is the path of a file in a bundle, which leaves it by no way."""
    return PATH.fullmatch(text) is not None and len(text) <= LONGEST_PATH


def _manifest(document: Json) -> Manifest:
    return Manifest(
        platform=text(document["platform"]),
        model=text(document["model"]),
        model_file=_path(document["model_file"], "model_file"),
        target=text(document["target"]),
        precision=text(document["precision"]),
        runner=optional(_path, document["runner"]),
        tolerance=_fraction(document["tolerance"], "tolerance"),
        runtime=_runtime(document["runtime"]),
        inputs=_several(_input, document, "inputs"),
        outputs=_several(_output, document, "outputs"),
        golden=_golden(document["golden"]),
        licences=Licences(*(optional(text, document["licences"][key]) for key in ("model", "runtime"))),
        verified=Verified(*(_texts(document["verified"][key]) for key in ("compiled_with", "run_on", "not_run"))),
        files=_several(_file, document, "files"),
        facts={key: document[key] for key in FACTS if key in document},
        notes=_object_of(document.get("notes", {}), "notes"),
    )


def _several(of: Callable[[Any], T], document: Mapping[str, Any], key: str) -> tuple[T, ...]:
    """At least one."""
    values = document[key]
    if not isinstance(values, list) or not values:
        raise ValueError(f"{key} is no list of at least one")
    try:
        return tuple(map(of, values))
    except KeyError as error:
        raise ValueError(f"{key}: one has no {error}") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{key}: {error}") from None


def _path(value: Any, what: str = "path") -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} {value!r} is no text")
    if not is_path(value):
        raise ValueError(f"{what} {value!r} is not that of a file in a bundle")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return tuple(map(text, value))


def _object_of(value: Any, what: str) -> Json:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is no object")
    return value


def _one_of(value: Any, names: Sequence[T], what: str) -> T:
    if isinstance(value, str) and value in names:
        return value  # type: ignore[return-value]
    raise ValueError(f"{what} {value!r} is none of {', '.join(map(str, names))}")


def _finite(value: Any, what: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{what} {value!r} is no finite number")
    return float(value)


def _numbers(value: Any, what: str) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{what} {value!r} is no list of numbers")
    return tuple(_finite(one, what) for one in value)


def _fraction(value: Any, what: str) -> float:
    if not 0 < _finite(value, what) <= 1:
        raise ValueError(f"{what} is no fraction")
    return float(value)


def _count(value: Any, what: str) -> int:
    if whole(value) < 0:
        raise ValueError(f"{what} is negative")
    return int(value)


def _runtime(document: Any) -> Runtime:
    document = _object_of(document, "runtime")
    return Runtime(
        name=text(document["name"]),
        minimum=optional(text, document["minimum"]),
        tested=optional(text, document["tested"]),
        library_bytes=optional(_bytes, document["library_bytes"]),
        library_bytes_compressed=optional(_bytes, document["library_bytes_compressed"]),
        source=optional(text, document["source"]),
    )


def _bytes(value: Any) -> int:
    return _count(value, "library_bytes")


def _shape(value: Any) -> tuple[int | str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) or (type(one) is int and one > 0) for one in value):
        raise ValueError(f"shape {value!r} is no list of sizes, or names of sizes")
    return tuple(value)


def _dtype(value: Any) -> str:
    return _one_of(value, tuple(ITEM_BYTES), "dtype")


def _size(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(one) is int and one > 0 for one in value):
        raise ValueError(f"size {value!r} is not height and width")
    return value[0], value[1]


def _preprocessing(document: Any) -> Preprocessing:
    document = _object_of(document, "preprocessing")
    scale = _finite(document["scale"], "scale")
    found = Preprocessing(
        size=_size(document["size"]),
        color=_one_of(document["color"], COLORS, "color"),
        resize=_one_of(document["resize"], RESIZES, "resize"),
        interpolation=_one_of(document["interpolation"], INTERPOLATIONS, "interpolation"),
        scale=scale,
        mean=_numbers(document["mean"], "mean"),
        std=_numbers(document["std"], "std"),
    )
    if not len(found.mean) == len(found.std) == found.channels:
        raise ValueError(f"mean and std have not {found.channels} numbers, one for each channel")
    if scale == 0 or 0 in found.std:
        raise ValueError("scale or std is 0")
    return found


def _input(document: Any) -> Input:
    document = _object_of(document, "an input")
    return Input(
        text(document["name"]),
        _dtype(document["dtype"]),
        _shape(document["shape"]),
        optional(lambda value: _one_of(value, LAYOUTS, "layout"), document["layout"]),
        optional(_preprocessing, document["preprocessing"]),
    )


def _output(document: Any) -> Output:
    document = _object_of(document, "an output")
    kind = _one_of(document["kind"], OUTPUT_KINDS, "kind")
    labels = optional(lambda value: _path(value, "labels"), document["labels"])
    return Output(text(document["name"]), _dtype(document["dtype"]), _shape(document["shape"]), kind, labels)


def _tensor(document: Any) -> TensorFile:
    document = _object_of(document, "a golden tensor")
    shape = _shape(document["shape"])
    if not all(isinstance(one, int) for one in shape):
        raise ValueError(f"shape {list(shape)} has a free size")
    sizes = tuple(one for one in shape if isinstance(one, int))
    return TensorFile(text(document["name"]), _path(document["path"]), _dtype(document["dtype"]), sizes)


def _golden(document: Any) -> Golden:
    document = _object_of(document, "golden")
    inputs, outputs = (_several(_tensor, document, key) for key in ("inputs", "outputs"))
    return Golden(inputs, outputs, optional(_image, document["image"]))


def _image(document: Any) -> GoldenImage:
    document = _object_of(document, "image")
    if not isinstance(document["outputs"], list):
        raise TypeError("outputs of image is no list")
    return GoldenImage(
        pixels=_tensor(document["pixels"]),
        png=_path(document["png"]),
        prepared=_tensor(document["prepared"]),
        outputs=tuple(map(_tensor, document["outputs"])),
        resized=optional(_resized, document["resized"]),
        tolerance=_fraction(document["tolerance"], "tolerance"),
        png_tolerance=_count(document["png_tolerance"], "png_tolerance"),
    )


def _resized(document: Any) -> Resized:
    document = _object_of(document, "resized")
    return Resized(_size(document["size"]), _tensor(document["pixels"]), _tensor(document["prepared"]))


def _file(document: Any) -> ListedFile:
    document = _object_of(document, "a file")
    digest = text(document["sha256"])
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ValueError(f"sha256 {digest!r} is none")
    role = _one_of(document["role"], ROLES, "role")
    return ListedFile(_path(document["path"]), role, _count(document["size_bytes"], "size_bytes"), digest)
