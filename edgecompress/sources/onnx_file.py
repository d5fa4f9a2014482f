"""``file.onnx``: a network of any framework. Its weights become layers of PyTorch; no code of its own is run."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgecompress.errors import ModelError
from edgecompress.models import Sample
from edgecompress.models.forms import by_position
from edgecompress.progress import notice
from edgecompress.sources.onnx_graphs.examples import Shapes, built, example, telling
from edgecompress.sources.onnx_graphs.preparing import TURNED, batch_first, in_single, settled
from edgecompress.sources.onnx_graphs.reading import Graph, read

SHAPES = re.compile(r"(.+\.onnx):(\d+(?:x\d+)*(?:,\d+(?:x\d+)*)*)")


class OnnxFile:
    """``file.onnx``, or ``file.onnx:1x3x48x320`` where it leaves more than the batch free."""

    name = "onnx"
    form = "a file.onnx"
    summary = (
        "file.onnx or file.onnx:1x3x48x320: a network of any framework, with the shape of its input if that is free."
    )
    runs_code = False

    def matches(self, text: str) -> bool:
        """By the ending, whether the file is there or not."""
        return _split(text)[0].suffix == ".onnx"

    def files(self, text: str) -> tuple[Path, ...]:
        """The file itself."""
        return (_split(text)[0],)

    def resolve(self, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
        """Its network, without data, hence without a score."""
        del trust, above
        path, shapes = _split(text)
        return sample_of(path, shapes)


def _split(text: str) -> tuple[Path, Shapes]:
    """Path, and the shapes of the inputs if they are given."""
    found = SHAPES.fullmatch(text)
    if found is None:
        return Path(text), ()
    shapes = tuple(tuple(int(size) for size in shape.split("x")) for shape in found[2].split(","))
    return Path(found[1]), shapes


def sample_of(path: Path, shapes: Shapes = ()) -> Sample:
    """The sample in an .onnx file.

    Args:
        path: the file.
        shapes: of its inputs, batch first, where they are given.

    Raises:
        ModelError: it is not there, is no .onnx file, or holds what cannot be made layers of; says which node.
    """
    graph = _prepared(path)
    _check_shapes(path, graph, shapes)
    try:
        found = built(graph, shapes)
    except ModelError as error:
        raise ModelError(f"{path}: {error}{'' if shapes or not _is_open(graph) else _way_out(graph)}") from error
    shown = ",".join("x".join(map(str, shape)) for shape in found.shapes)
    if _is_open(graph) and not shapes:
        notice(f"{path}: leaves sizes of its input free; {shown} is taken, {path.name}:{shown} names others")
    inputs = telling(found.network, example(graph.inputs, found.shapes))
    source = str(path.resolve())
    return Sample(
        path.stem,
        f"{source}:{shown}" if shapes or _is_open(graph) else source,
        partial(copy.deepcopy, found.network),
        inputs,
        form=by_position([item.name.removesuffix(TURNED) for item in graph.inputs]),
    )


def _prepared(path: Path) -> Graph:
    """What the file holds, with a note for everything that is taken otherwise than it is written."""
    graph, changed = in_single(read(path))
    graph, numbers = settled(graph)
    graph, moved = batch_first(graph)
    if changed:
        notice(f"{path}: its numbers in {', '.join(changed)} are taken in float32")
    if numbers:
        shown = ", ".join(f"{name!r} is {number:g}" for name, number in numbers.items())
        notice(f"{path}: inputs without axes are settled: {shown}")
    if moved:
        notice(f"{path}: the batch comes first here, in the file it does not in {', '.join(moved)}")
    return graph


def _is_open(graph: Graph) -> bool:
    return any(isinstance(size, str) for item in graph.inputs for size in item.dims[1:])


def _way_out(graph: Graph) -> str:
    shown = ",".join(
        "x".join(str(size) if isinstance(size, int) else "N" for size in item.dims) for item in graph.inputs
    )
    return f"; name the sizes it leaves free: FILE.onnx:{shown}, with a number for each N"


def _check_shapes(path: Path, graph: Graph, given: Shapes) -> None:
    """Prove that shapes fit what the file says.

    Raises:
        ModelError: they do not.
    """
    if not graph.inputs:
        raise ModelError(f"{path}: has no input")
    wanted = [item.dims for item in graph.inputs]
    if given and not (len(given) == len(wanted) and all(map(_fits, given, wanted))):
        shown = ", ".join("x".join(str(size or "?") for size in dims) for dims in wanted)
        raise ModelError(f"{path}: its inputs are {shown}; the shape after the colon does not fit them")


def _fits(shape: Sequence[int], dims: Sequence[int | str]) -> bool:
    same = all(isinstance(dim, str) or dim == size for size, dim in zip(shape, dims, strict=False))
    return len(shape) == len(dims) and same and min(shape, default=1) > 0
