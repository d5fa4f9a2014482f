"""What a target is: a file format with the runtime that reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from torch import nn

from edgecompress.artifacts import Arrays, TensorSpec
from edgecompress.datasets import Inputs
from edgecompress.files import Json
from edgecompress.plans import CompressionPlan

Run = Callable[[Arrays], Arrays]
"""Runs a loaded file: input arrays by name to output arrays by name."""


class Target(Protocol):
    """Writes a model in one format, runs it on this machine, and knows which runner measures it."""

    @property
    def name(self) -> str:
        """The key in ``TARGETS``."""

    @property
    def suffix(self) -> str:
        """The file's ending, with the dot."""

    @property
    def summary(self) -> str:
        """One line for people."""

    def export(self, model: nn.Module, inputs: Inputs, path: Path, plan: CompressionPlan | None) -> Json:
        """Write ``path`` and return facts about its graph.

        Raises:
            ExportError: the exporter refused, or the graph is not what it should be.
        """

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a file.

        Raises:
            FileError: it cannot be read.
        """

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """Load a file to run on this machine (``threads`` 0: the runtime's choice).

        Raises:
            FileError: it cannot be read.
        """

    def weight_bytes(self, path: Path) -> int:
        """Bytes of the weights inside a file, without its graph."""

    def runner(self) -> Path:
        """The stand-alone script that measures this format."""

    def runner_arguments(self, model: str, baseline: str | None) -> Sequence[str]:
        """The runner's arguments that name the files, as the device knows them."""
