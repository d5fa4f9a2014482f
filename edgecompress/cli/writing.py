"""Where commands write: proved to be theirs before any work, and said where it is new."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from edgecompress.cli.display import complain
from edgecompress.processes import is_first


def announce_folder(folder: Path) -> None:
    """Say on stderr that a folder is new, before anything is written into it."""
    if is_first() and not folder.exists():
        complain(f"new folder: {folder}")


def file_to_write(
    path: Path, what: str, is_ours: Callable[[Path], bool], *, inputs: Iterable[Path] = (), force: bool = False
) -> None:
    """Prove that a command may write ``path``, which is none of its ``inputs``, and make its folder.

    Raises:
        FileError: it may not, or cannot be written.
    """
    from edgecompress.errors import FileError
    from edgecompress.files import make_folder
    from edgecompress.replacing import check_replaceable, same_file

    for given in inputs:
        if same_file(path, given):
            raise FileError(f"{path}: is what the command reads; choose another name with -o")
    check_replaceable(path, what, is_ours, force=force)
    announce_folder(path.parent)
    make_folder(path.parent)
