"""Inputs and outputs as a manifest describes them: what an artifact knows, and what its preprocessing says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompress.errors import FileError
from edgecompress.fields import number, text
from edgecompress.files import Json, reading_fields
from edgecompress.manifests import (
    COLORS,
    INTERPOLATIONS,
    LAYOUTS,
    OUTPUT_KINDS,
    RESIZES,
    Input,
    Output,
    OutputKind,
    Preprocessing,
)

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact, TensorSpec

STEPS = ("scale", "mean", "std")
"""What preprocessing must say of an image; the rest has a usual value."""
KNOWN = {*STEPS, "layout", "size", "color", "resize", "interpolation", "labels", "outputs"}

Array = np.ndarray[Any, Any]


def inputs_of(artifact: Artifact) -> tuple[Input, ...]:
    """Names, dtypes and shapes of the file; the first input's preprocessing where that takes images.

    Raises:
        FileError: the preprocessing fits no such input.
    """
    first, *others = artifact.inputs
    with reading_fields(f"{artifact.path}: the model's preprocessing"):
        steps = _steps(first, artifact.preprocessing)
    layout = (first.layout or "NCHW") if steps else None
    made = Input(first.name, first.dtype, first.shape, layout, steps)  # type: ignore[arg-type]
    return made, *(Input(spec.name, spec.dtype, spec.shape) for spec in others)


def _steps(spec: TensorSpec, given: Mapping[str, Any]) -> Preprocessing | None:
    """None where the input is no image of floats or nothing is said of one."""
    if len(spec.shape) != 4 or spec.dtype != "float32" or not all(step in given for step in STEPS):
        return None
    channels, *sides = (spec.shape[3], *spec.shape[1:3]) if spec.layout == LAYOUTS[1] else spec.shape[1:]
    fixed = all(isinstance(side, int) for side in (channels, *sides))
    size = tuple(sides) if fixed else tuple(map(_whole, given["size"]))
    color = _choice(given.get("color", "gray" if channels == 1 else "RGB"), COLORS, "color")
    found = Preprocessing(
        size=size,  # type: ignore[arg-type]
        color=color,
        resize=_choice(given.get("resize", "stretch"), RESIZES, "resize"),
        interpolation=_choice(given.get("interpolation", "bilinear"), INTERPOLATIONS, "interpolation"),
        scale=number(given["scale"]),
        mean=tuple(map(number, given["mean"])),
        std=tuple(map(number, given["std"])),
    )
    if not len(found.mean) == len(found.std) == found.channels or channels not in (found.channels, *_names(spec)):
        raise ValueError(f"{color} has {found.channels} channels, the input {channels}, mean and std {len(found.mean)}")
    return found


def _names(spec: TensorSpec) -> list[str]:
    return [size for size in spec.shape if isinstance(size, str)]


def _whole(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"size has {value!r}")
    return value


def _choice(value: Any, names: tuple[Any, ...], what: str) -> Any:
    """One of several names, however its letters are cased."""
    for name in names:
        if text(value).lower() == name.lower():
            return name
    raise ValueError(f"{what} {value!r} is none of {', '.join(names)}")


def outputs_of(artifact: Artifact, golden: Mapping[str, Array], labels: str | None, count: int) -> tuple[Output, ...]:
    """Names, dtypes and shapes of the file; ``labels`` is the path of ``count`` names for the first that has as many.

    What an output means is what the preprocessing's ``outputs`` says, by name or in order; else what its numbers show.

    Raises:
        FileError: it says something that no output can be.
    """
    named = artifact.preprocessing.get("outputs", {})
    if isinstance(named, list | tuple):
        named = dict(zip((spec.name for spec in artifact.outputs), named, strict=False))
    with reading_fields(f"{artifact.path}: the outputs of the model's preprocessing"):
        kinds = [_choice(named.get(spec.name, "tensor"), OUTPUT_KINDS, "outputs") for spec in artifact.outputs]
    made = []
    for spec, kind in zip(artifact.outputs, kinds, strict=True):
        own = labels if labels and spec.shape[-1:] == (count,) else None
        labels = None if own else labels
        shown = kind if spec.name in named else _kind_of(golden[spec.name], classes=own is not None)
        made.append(Output(spec.name, spec.dtype, spec.shape, shown, own))
    return tuple(made)


def _kind_of(values: Array, *, classes: bool) -> OutputKind:
    """Of an output that nobody described."""
    if (
        values.ndim == 2
        and values.dtype.kind == "f"
        and (values >= 0).all()
        and np.allclose(values.sum(1), 1, atol=1e-3)
    ):
        return "probabilities"
    if values.ndim == 2 and values.dtype.kind == "f" and classes:
        return "logits"
    return "classes" if values.ndim == 1 and values.dtype.kind in "iu" else "tensor"


def labels_of(artifact: Artifact, given: Any) -> tuple[str, ...]:
    """The names of the classes: those of a text file, one a line, else those of the preprocessing.

    Raises:
        FileError: the file cannot be read, has an empty line, or not as many names as an output has classes.
    """
    if given is None:
        named = artifact.preprocessing.get("labels", ())
        return tuple(map(str, named)) if isinstance(named, list | tuple) else ()
    try:
        names = tuple(given.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
    except (OSError, ValueError) as error:
        raise FileError(f"{given}: no readable text file of labels ({error})") from None
    names = tuple(name.removesuffix("\r").strip() for name in names)
    if not all(names):
        raise FileError(f"{given}: line {names.index('') + 1} is empty; one label a line was expected")
    lasts = [spec.shape[-1] for spec in artifact.outputs if spec.shape]
    if len(names) not in lasts:
        raise FileError(f"{given}: has {len(names)} labels; the outputs have {', '.join(map(str, lasts))} classes")
    return names


def notes_of(artifact: Artifact, *, image: bool) -> Json:
    """What the preprocessing says beyond that."""
    return {key: value for key, value in artifact.preprocessing.items() if not image or key not in KNOWN}
