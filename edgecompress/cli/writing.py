"""Where commands write: proved to be theirs before any work, and said where it is new."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgecompress.cli.display import complain
from edgecompress.processes import is_first
from edgecompress.progress import silent

if TYPE_CHECKING:
    from edgecompress.progress import Progress


@contextlib.contextmanager
def announcing(folder: Path, progress: Progress = silent) -> Iterator[Progress]:
    """Say on stderr that a folder is new, once something was written into it: ``progress`` that looks after that."""
    from edgecompress.files import LOCK

    pending = is_first() and not folder.exists()

    def look() -> None:
        nonlocal pending
        if pending and folder.is_dir() and any(entry.name != LOCK for entry in folder.iterdir()):
            pending = False
            complain(f"new folder: {folder}")

    def looking(name: str, done: int, total: int, detail: str) -> None:
        look()
        progress(name, done, total, detail)

    try:
        yield looking
    finally:
        look()


@contextlib.contextmanager
def telling_what_is_left(folder: Path) -> Iterator[None]:
    """Say on stderr where a run found all of its stages finished in ``folder``."""
    before = _finished(folder)
    yield
    if is_first() and before and _finished(folder) == before:
        complain(f"nothing was left to do: {folder} holds all of it, made with the same options")


def _finished(folder: Path) -> dict[str, int]:
    """When the stages of a folder were finished."""
    from edgecompress.running.resuming import STAGES

    return {file.name: file.stat().st_mtime_ns for file in (folder / STAGES).glob("*.json")}


def file_to_write(
    path: Path, what: str, is_ours: Callable[[Path], bool], *, inputs: Iterable[Path] = (), force: bool = False
) -> None:
    """Prove that a command may write ``path``, which is none of its ``inputs``, and make its folder.

    A new folder goes again when the command ends without having written into it.

    Raises:
        FileError: it may not, or cannot be written.
    """
    from edgecompress.errors import FileError
    from edgecompress.files import folder_made
    from edgecompress.replacing import check_replaceable, same_file

    for given in inputs:
        if same_file(path, given):
            raise FileError(f"{path}: is what the command reads; choose another name with -o")
    check_replaceable(path, what, is_ours, force=force)
    command = click.get_current_context()
    command.with_resource(announcing(path.parent))
    command.with_resource(folder_made(path.parent))
