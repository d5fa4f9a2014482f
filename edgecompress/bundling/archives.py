"""Bundles as zip archives: written the same way each time, and read as if somebody meant harm."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecompress.errors import FileError, printable
from edgecompress.files import CHUNK_BYTES, files_in, written_aside
from edgecompress.manifests import FILE, LARGEST_BYTES, MOST_FILES
from edgecompress.manifests.reading import is_path

LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The first moment a zip archive knows."""
MODE = stat.S_IFREG | 0o644
MOST_BYTES = 1 << 32
"""Of all files together when unpacked."""
MOST_RATIO, RATIO_FROM_BYTES = 200, 1 << 23
"""How much larger than its packed bytes a file may be, if it is larger than these."""
HARMFUL = (OSError, ValueError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile)
"""What Python's zipfile raises for archives that are damaged, encrypted or packed in other ways; also zlib.error."""


def write_zip(folder: Path, path: Path) -> None:
    """All files of a folder, names sorted, one date, one mode: the same files give the same bytes."""
    with written_aside(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for file in files_in(folder):
            entry = zipfile.ZipInfo(file.relative_to(folder).as_posix(), LONG_AGO)
            entry.create_system, entry.external_attr, entry.compress_type = 3, MODE << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, file.read_bytes(), compresslevel=9)


def manifest_in(path: Path) -> bytes:
    """The bytes of the manifest in an archive.

    Raises:
        FileError: none is there, or the archive is not one to be opened.
    """
    with _opened(path) as archive:
        if FILE not in archive.NameToInfo:
            raise FileError(f"{path}: holds no {FILE}, so it is no bundle")
        return _read(archive, path, archive.NameToInfo[FILE], LARGEST_BYTES)


def unpack(path: Path, folder: Path) -> None:
    """Write the files of an archive into an empty folder, once names and sizes are proved harmless.

    Raises:
        FileError: a name leads out of the folder, is there twice or a link, or the files are too many or too large.
    """
    with _opened(path) as archive:
        for entry in _files(archive):
            file = folder / entry.filename
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(_read(archive, path, entry, entry.file_size))


def _files(archive: zipfile.ZipFile) -> Iterator[zipfile.ZipInfo]:
    return (entry for entry in archive.infolist() if not entry.is_dir())


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    import zlib

    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive, path)
            yield archive
    except (*HARMFUL, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise FileError(f"{path}: no such file") from None
        raise FileError(f"{path}: not a whole zip archive ({printable(error)})") from None


def _check(archive: zipfile.ZipFile, path: Path) -> None:
    entries = archive.infolist()
    if len(entries) > 2 * MOST_FILES:
        raise FileError(f"{path}: has {len(entries):,} entries, a bundle has at most {MOST_FILES:,} files")
    seen = set[str]()
    for entry in entries:
        if problem := _problem(entry, seen):
            raise FileError(f"{path}: {printable(repr(entry.orig_filename))} {problem}")
        seen.add(entry.filename.lower())
    if sum(entry.file_size for entry in entries) > MOST_BYTES:
        raise FileError(f"{path}: would take more than {MOST_BYTES:,} bytes unpacked")
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise FileError(f"{path}: its entries share bytes, as those of a zip bomb do")


def _problem(entry: zipfile.ZipInfo, seen: set[str]) -> str:
    """What is wrong with an entry; nothing: it may be unpacked."""
    size, packed = entry.file_size, entry.compress_size
    problems = {
        "is not the path of a file in a bundle": not is_path(entry.orig_filename.removesuffix("/")),
        "is there twice": entry.filename.lower() in seen,
        "is a link or no regular file": stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR),
        "is encrypted": bool(entry.flag_bits & 1),
        f"is {size:,} bytes packed into {packed:,}, as in a zip bomb": size
        > max(RATIO_FROM_BYTES, MOST_RATIO * packed),
    }
    return next((words for words, found in problems.items() if found), "")


def _read(archive: zipfile.ZipFile, path: Path, entry: zipfile.ZipInfo, most: int) -> bytes:
    """The bytes of an entry, as many as it says and at most so many."""
    with archive.open(entry) as stream:
        content = bytearray()
        while chunk := stream.read(CHUNK_BYTES):
            content += chunk
            if len(content) > min(most, entry.file_size):
                raise FileError(f"{path}: {entry.filename} has more bytes than it may")
    return bytes(content)
