"""What most targets have in common: a file that its runtime describes, alone or with its weights beside it."""

from __future__ import annotations

from pathlib import Path

from edgecompress.artifacts import TensorSpec
from edgecompress.targets import runtimes
from edgecompress.targets.base import NCHW, MadeFrom, Run


class SingleFile:
    """What is so of a target unless it says otherwise: one file for any batch, NCHW alone, proved in this process."""

    made_from: MadeFrom = "onnx"
    one_at_a_time: bool = False
    free_length: bool = False
    caches: bool = False
    layouts: tuple[str, ...] = (NCHW,)
    mixes_halves: bool = False
    may_crash: bool = False
    runs_here: bool = True

    def parts(self, path: Path) -> tuple[Path, ...]:
        """A single file: no others are needed."""
        del path
        return ()

    def companions(self, path: Path) -> tuple[Path, ...]:
        """A single file: no others are written."""
        del path
        return ()


class RuntimeFile(SingleFile):
    """A file that its runtime describes and loads."""

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """As the runtime reports them."""
        return runtimes.signature(path)

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """By the runtime."""
        return runtimes.load(path, threads)

    def weight_bytes(self, path: Path) -> int | None:
        """None: the format does not tell weights from the graph."""
        del path
        return None


class WeightsApart(RuntimeFile):
    """The same with the weights in a .bin beside the file."""

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The weights."""
        return (path.with_suffix(".bin"),)

    def weight_bytes(self, path: Path) -> int | None:
        """Size of the .bin."""
        return path.with_suffix(".bin").stat().st_size
