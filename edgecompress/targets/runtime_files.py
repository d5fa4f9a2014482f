"""What most targets have in common: a file that its runtime describes, alone or with its weights beside it."""

from __future__ import annotations

from pathlib import Path

from edgecompress.artifacts import TensorSpec
from edgecompress.targets import runtimes
from edgecompress.targets.base import Run


class RuntimeFile:
    """Signature and loading through the target's own runtime; no other files; weights not told apart."""

    runs_here: bool = True

    def parts(self, path: Path) -> tuple[Path, ...]:
        """None."""
        del path
        return ()

    def companions(self, path: Path) -> tuple[Path, ...]:
        """None."""
        del path
        return ()

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """As the runtime tells them."""
        return runtimes.signature(path)

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """By the runtime."""
        return runtimes.load(path, threads)

    def weight_bytes(self, path: Path) -> int | None:
        """Not told."""
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
