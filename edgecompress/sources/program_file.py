"""``file.pt2``: a program of torch.export. Its weights become layers of PyTorch; no code of its own is run."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path

from edgecompress.errors import ModelError
from edgecompress.models import Sample
from edgecompress.models.forms import by_position
from edgecompress.progress import notice
from edgecompress.sources.onnx_graphs.examples import example, telling
from edgecompress.sources.programs.archive import DAMAGE, Program, damaged, read
from edgecompress.sources.programs.building import built, inputs_of
from edgecompress.sources.programs.operators import SINGLE


class ProgramFile:
    """``file.pt2``."""

    name = "program"
    form = "a file.pt2"
    summary = "file.pt2: a program of torch.export, for any batch where it was exported so."
    runs_code = False

    def matches(self, text: str) -> bool:
        """By the ending, whether the file is there or not."""
        return Path(text).suffix == ".pt2"

    def files(self, text: str) -> tuple[Path, ...]:
        """The file itself."""
        return (Path(text),)

    def resolve(self, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
        """Its network, without data, hence without a score."""
        del trust, above
        return sample_of(Path(text))


def sample_of(path: Path) -> Sample:
    """The sample in a .pt2.

    Raises:
        ModelError: it is not there, is no program, or holds what cannot be made layers of; says which node.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    program = read(path)
    if not program.inputs:
        raise ModelError(f"{path}: has no input")
    try:
        found = built(program)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except DAMAGE as error:  # a graph may be anything
        raise ModelError(f"{path}: {damaged(error)}") from error
    _say(path, program, free=found.free)
    return Sample(
        path.stem,
        str(path.resolve()),
        partial(copy.deepcopy, found.network),
        telling(found.network, example(inputs_of(program), found.shapes)),
        form=by_position([given.name for given in program.inputs]),
    )


def _say(path: Path, program: Program, *, free: bool) -> None:
    """A note for what is taken otherwise than it is written, or can be used in one way alone."""
    kinds = sorted({str(tensor.dtype) for tensor in program.tensors.values() if tensor.dtype in SINGLE})
    if kinds:
        notice(f"{path}: its numbers in {', '.join(kinds).replace('torch.', '')} are taken in float32")
    if not free:
        batch = program.inputs[0].shape[:1]
        notice(
            f"{path}: was exported for a batch of {batch[0] if batch else 'none'} alone; "
            "torch.export.export(..., dynamic_shapes=...) leaves it free"
        )
