"""What most targets have in common: a converter in a child process, a file that its runtime describes."""

from __future__ import annotations

from pathlib import Path

from edgecompress.artifacts import TensorSpec
from edgecompress.targets import runtimes
from edgecompress.targets.base import Run


class RuntimeFile:
    """Signature and loading through the target's own runtime; no other files; weights not told apart."""

    runs_here: bool = True

    def parts(self, _path: Path) -> tuple[Path, ...]:
        """None."""
        return ()

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """As the runtime tells them."""
        return runtimes.signature(path)

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """By the runtime."""
        return runtimes.load(path, threads)

    def weight_bytes(self, _path: Path) -> int | None:
        """Not told."""
        return None
