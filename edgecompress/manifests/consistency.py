"""Whether the parts of a manifest fit one another: what one names, another has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from edgecompress.errors import FileError
from edgecompress.manifests import FILE, MOST_FILES, GoldenImage, Input, Manifest, Output, Role, TensorFile

Spec = Input | Output


def check_consistent(manifest: Manifest) -> None:
    """Prove that every path is listed once, and that golden tensors are those of the model.

    Raises:
        FileError: something contradicts something else.
    """
    parts = (_files(manifest), _model(manifest), _roles(manifest), _signature(manifest), _image(manifest))
    for problem in chain(*parts):
        raise FileError(f"{FILE}: {problem}")


def _files(manifest: Manifest) -> Iterator[str]:
    """File systems that take A for a must not see two files in one."""
    files, seen = manifest.files, set[str]()
    if len(files) > MOST_FILES:
        yield f"files: lists more than {MOST_FILES:,}"
    for file in files:
        path = file.path.lower()
        if path == FILE:
            yield f"files: lists {FILE} itself"
        if path in seen:
            yield f"files: {file.path!r} is listed twice"
        seen.add(path)
    for path in seen:
        parents = path.split("/")[:-1]
        for count in range(1, len(parents) + 1):
            if (folder := "/".join(parents[:count])) in seen:
                yield f"files: {folder!r} is a file and a folder"


def _model(manifest: Manifest) -> Iterator[str]:
    own = manifest.model_file
    roles = {file.role for file in manifest.files if file.path == own or file.path.startswith(f"{own}/")}
    if roles != {"model"}:
        yield f"model_file {own!r} is none of the files with the role model"


def _roles(manifest: Manifest) -> Iterator[str]:
    """Whatever is named is listed, in its role and with its size."""
    golden = manifest.golden
    wanted: list[tuple[str, str, Role, int | None]] = [
        ("golden", one.path, "golden", one.size_bytes) for one in (*golden.inputs, *golden.outputs)
    ]
    if golden.image:
        wanted += [("golden image", one.path, "golden", one.size_bytes) for one in golden.image.tensors()]
        wanted.append(("golden image", golden.image.png, "golden", None))
    if manifest.runner is not None:
        wanted.append(("runner", manifest.runner, "code", None))
    wanted += [("labels", one.labels, "labels", None) for one in manifest.outputs if one.labels is not None]
    listed = {file.path: file for file in manifest.files}
    for what, path, role, size in wanted:
        found = listed.get(path)
        if found is None or found.role != role:
            yield f"{what}: {path!r} is none of the files with the role {role}"
        elif size is not None and found.size_bytes != size:
            yield f"{what}: {path!r} has {found.size_bytes} bytes in files, {size} by its shape"


def _signature(manifest: Manifest) -> Iterator[str]:
    golden = manifest.golden
    yield from _pairs("inputs", manifest.inputs, golden.inputs)
    yield from _pairs("outputs", manifest.outputs, golden.outputs)
    for one in manifest.inputs:
        if one.preprocessing is not None:
            yield from _image_input(one)


def _pairs(side: str, specs: Sequence[Spec], tensors: Sequence[TensorFile]) -> Iterator[str]:
    names = [spec.name for spec in specs]
    if len(set(names)) != len(names):
        yield f"{side} has a name twice"
    elif [tensor.name for tensor in tensors] != names:
        yield f"golden: its {side} are not the {side} of the model"
    else:
        for spec, tensor in zip(specs, tensors, strict=True):
            if not fits(tensor, spec):
                yield f"golden: {tensor.name!r} has not the dtype and shape of {side}"


def fits(tensor: TensorFile, spec: Spec) -> bool:
    """Whether a golden tensor has the dtype and the sizes of an input or output."""
    same = len(tensor.shape) == len(spec.shape)
    sizes = zip(tensor.shape, spec.shape, strict=False)
    return same and tensor.dtype == spec.dtype and all(isinstance(b, str) or a == b for a, b in sizes)


def _image_input(one: Input) -> Iterator[str]:
    steps, sizes = one.preprocessing, one.shape[1:]
    assert steps is not None
    wanted = {"NCHW": (steps.channels, *steps.size), "NHWC": (*steps.size, steps.channels)}.get(one.layout or "")
    same = wanted is not None and len(sizes) == 3
    if not same or one.dtype != "float32":
        yield f"inputs: {one.name!r} has preprocessing, and is no image of float32 with a layout"
    elif any(isinstance(a, int) and a != b for a, b in zip(sizes, wanted or (), strict=True)):
        yield f"inputs: {one.name!r} has not the size and channels of its preprocessing"


def prepared_shape(one: Input, size: tuple[int, int]) -> tuple[int, ...]:
    """Of one image that was prepared for an input, with another size."""
    assert one.preprocessing is not None
    channels = one.preprocessing.channels
    return (1, *size, channels) if one.layout == "NHWC" else (1, channels, *size)


def _image(manifest: Manifest) -> Iterator[str]:
    image, taking = manifest.golden.image, manifest.inputs[0]
    if image is None:
        return
    steps = taking.preprocessing
    if steps is None:
        yield "image: the first input has no preprocessing"
        return
    wrong = [
        image.pixels.dtype != "uint8" or image.pixels.shape != (*steps.size, steps.channels),
        image.prepared.dtype != "float32" or image.prepared.shape != prepared_shape(taking, steps.size),
        bool(image.outputs) and [one.name for one in image.outputs] != [one.name for one in manifest.outputs],
        any(not fits(one, spec) for one, spec in zip(image.outputs, manifest.outputs, strict=False)),
        _resized_is_wrong(image, taking),
    ]
    if any(wrong):
        yield "image: its tensors have not the dtypes and shapes of the model's input and outputs"


def _resized_is_wrong(image: GoldenImage, taking: Input) -> bool:
    resized, steps = image.resized, taking.preprocessing
    if resized is None or steps is None:
        return False
    pixels, prepared = resized.pixels, resized.prepared
    own = prepared.dtype == "float32" and prepared.shape == prepared_shape(taking, resized.size)
    return pixels.dtype != "uint8" or len(pixels.shape) != 3 or pixels.shape[2] != steps.channels or not own
