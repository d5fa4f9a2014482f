"""What a platform has to give."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgecompress.files import resource

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact


class Platform(Protocol):
    """Where an app runs: what its bundle holds beside the model, the golden pair and the manifest."""

    @property
    def name(self) -> str:
        """Its key in ``PLATFORMS``, and the manifest's ``platform``."""

    @property
    def summary(self) -> str:
        """One line for people."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The export formats that its runner can run; the first is the one to advise."""

    @property
    def runner(self) -> str:
        """The file among those of :meth:`fill` that checks the bundle, and answers."""

    def fill(self, folder: Path, artifact: Artifact) -> None:
        """Write what goes in beside the model: the runner and whatever it needs.

        Args:
            folder: there already, with the model and its golden pair; files go into it itself, not into folders in it.
            artifact: the exported file, for what is made of its inputs and outputs.

        Raises:
            OSError: it cannot be written.
        """

    def check(self, folder: Path) -> str:
        """How to check the bundle in ``folder``, in words and with the command."""


def copy_template(name: str, folder: Path) -> None:
    """Copy the files of ``deploy/NAME`` into ``folder``.

    Raises:
        OSError: they cannot be read or written.
    """
    for file in (resource("deploy") / name).iterdir():
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
