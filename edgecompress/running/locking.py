"""One process at a time works in a folder."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from edgecompress.errors import FileError
from edgecompress.files import LOCK, folder_made
from edgecompress.processes import is_first


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of the folder; it is released when this one ends, however it ends.

    Of several processes that train together the first one locks for all. A new folder that nothing was written into
    goes again.

    Raises:
        FileError: another process works in the folder, or it cannot be written to.
    """
    if not is_first():
        yield
        return
    new = not folder.exists()
    with folder_made(folder), (folder / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(
                f"{folder}: another edgecompress is at work there; wait for it or choose another -o"
            ) from None
        try:
            yield
        finally:
            if new and [entry.name for entry in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
