"""What a platform has to give, and what most of them have in common."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from edgecompress.errors import FileError
from edgecompress.files import resource
from edgecompress.manifests import Manifest, Role, Runtime, Verified
from edgecompress.settings import BundleOptions

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact

TEXTS = (".md", ".txt", ".LICENSE")

OLDEST_ONNX_RUNTIME, ONNX_RUNTIME = "1.18", "1.31.1"
"""The first that reads what is exported (1.17 refuses version 10 of the format), and the one that bundles ran with."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a platform's files are made for.

    Args:
        artifact: the exported file.
        manifest: of the bundle, all but ``files``, and ``runtime`` without what is in the folder; its paths are
            relative to ``home``.
        home: where model, golden files and labels are.
        options: what was asked for.
    """

    artifact: Artifact
    manifest: Manifest
    home: Path
    options: BundleOptions


class Platform(Protocol):
    """Where an app runs: what its bundle holds beside the model, the golden files and the manifest."""

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
        """The path of the file among those of :meth:`fill` that checks the bundle, and answers."""

    @property
    def payload(self) -> str:
        """The folder for model, golden files, labels and a manifest of these alone, where an app ships no more.

        Empty: they lie in the bundle's folder itself, whose manifest is the only one.
        """

    @property
    def takes(self) -> tuple[str, ...]:
        """The fields of ``BundleOptions`` beyond ``labels`` that it looks at."""

    @property
    def verified(self) -> Verified:
        """What its files in ``deploy/`` were compiled with and run on, and what of them was not."""

    def runtime(self, target: str, folder: Path) -> Runtime:
        """The library that runs the model; ``folder`` is the bundle, for one that was put into it by :meth:`fill`."""

    def runtime_licence(self, target: str) -> str | None:
        """Of the library, where the bundle holds it; None where it does not."""

    def fill(self, folder: Path, contents: Contents) -> None:
        """Write what goes in beside the model: the runner and whatever it needs.

        Args:
            folder: the bundle's, there already, with model, golden files and labels.
            contents: what these are.

        Raises:
            OSError: it cannot be written.
            FileError: what is needed is not there.
        """

    def role(self, path: str) -> Role:
        """Of a file that :meth:`fill` wrote, by its path in the bundle: ``code``, ``text`` or ``runtime``."""

    def page(self, folder: Path) -> bytes:
        """A finished bundle as one file, for ``single_file``."""

    def check(self, folder: Path) -> str:
        """How to check the bundle in ``folder``, in words and with the command."""


class TemplatePlatform:
    """What is so of a platform unless it says otherwise: the files of ``deploy/NAME`` and nothing else.

    A subclass has to give ``name``, ``summary``, ``targets``, ``runner`` and :meth:`check`.
    """

    name: str
    payload: str = ""
    takes: tuple[str, ...] = ()
    verified: Verified = Verified(not_run=("everything: nobody has written down where it was run",))

    def runtime(self, target: str, folder: Path) -> Runtime:
        """The name alone."""
        del folder
        return Runtime(target)

    def runtime_licence(self, target: str) -> str | None:
        """None: it lies elsewhere."""
        del target
        return None

    def fill(self, folder: Path, contents: Contents) -> None:
        """The files of ``deploy/NAME``."""
        del contents
        copy_template(self.name, folder)

    def role(self, path: str) -> Role:
        """Text by its ending, else code."""
        name = PurePosixPath(path).name
        return "text" if name.endswith(TEXTS) or name.startswith("LICENSE") else "code"

    def page(self, folder: Path) -> bytes:
        """None: ``single_file`` is not among what it takes."""
        raise FileError(f"{folder}: the {self.name} bundle is no single file")


def copy_template(name: str, folder: Path) -> None:
    """Copy ``deploy/NAME`` into ``folder``, with the folders in it; caches stay behind.

    Raises:
        OSError: it cannot be read or written.
    """
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(
        resource("deploy") / name, folder, dirs_exist_ok=True, ignore=ignored, copy_function=shutil.copyfile
    )
