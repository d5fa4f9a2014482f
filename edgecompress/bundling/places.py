"""Where a bundle may be written: in place of nothing, or of an older bundle and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgecompress.bundling.archives import manifest_in
from edgecompress.errors import FileError, printable
from edgecompress.files import Json, folder_made, reason, sha256
from edgecompress.manifests import FILE, KIND
from edgecompress.manifests.reading import manifest_document
from edgecompress.replacing import check_replaceable, document_in

OLD = ".old"
"""The bundle that was replaced, until it is removed."""
HEAD_BYTES = 4096
"""In which a page says that it is a bundle."""


def check_bundle(place: Path, *, force: bool = False) -> None:
    """Prove that a bundle may be made at ``place``: it is not there, empty, or an older bundle and nothing else.

    ``force`` also lets go of files that were changed since the older bundle was made, but of nothing that it lacked.

    Raises:
        FileError: something else is there.
    """
    if place.suffix == ".zip":
        check_replaceable(place, "bundle", is_bundle_zip, force=force)
    elif place.suffix == ".html":
        check_replaceable(place, "bundle", is_bundle_page, force=force)
    else:
        _check_folder(place, force=force)


def is_bundle_zip(path: Path) -> bool:
    """Whether an archive has a manifest of ours, of any version."""
    try:
        return bool(manifest_document(manifest_in(path)))
    except FileError:
        return False


def is_bundle_page(path: Path) -> bool:
    """Whether a page says in its first lines that it is a bundle."""
    try:
        with path.open("rb") as stream:
            return KIND.encode() in stream.read(HEAD_BYTES)
    except OSError:
        return False


def _check_folder(folder: Path, *, force: bool) -> None:
    if folder.is_symlink():
        raise FileError(f"{folder}: is a symbolic link, which is not followed; choose another folder with -o")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileError(f"{folder}: is there and no folder; choose another one with -o")
    listed = _listed(document_in(folder / FILE))
    for entry in _entries(folder, folders_of(listed)):
        path = entry.relative_to(folder).as_posix()
        if path not in listed or entry.is_symlink() or not entry.is_file():
            name = printable(repr(path))
            raise FileError(f"{folder}: holds {name}, which no bundle put there; choose another folder with -o")
        if not force and path != FILE and sha256(entry) != listed[path]:
            raise FileError(
                f"{entry}: was changed since the bundle was made; choose another folder with -o, "
                "or replace it with --force"
            )


def _entries(folder: Path, known: set[str], above: str = "") -> Iterator[Path]:
    """What lies in a folder and in those below it that are known; others themselves."""
    for entry in sorted(folder.iterdir()):
        path = above + entry.name
        if path in known and entry.is_dir() and not entry.is_symlink():
            yield from _entries(entry, known, f"{path}/")
        else:
            yield entry


def folders_of(paths: object) -> set[str]:
    """The folders that paths lie in."""
    parts = [str(path).split("/") for path in paths]  # type: ignore[attr-defined]
    return {"/".join(part[:count]) for part in parts for count in range(1, len(part))}


def _listed(document: Json) -> dict[str, object]:
    """The paths in a bundle by its manifest, with their digests; none where there is no manifest of ours."""
    files = document.get("files")
    if document.get("kind") != KIND or not isinstance(files, list):
        return {}
    entries = [entry for entry in files if isinstance(entry, dict) and isinstance(entry.get("path"), str)]
    return {FILE: None} | {entry["path"]: entry.get("sha256") for entry in entries}


@contextmanager
def making(folder: Path) -> Iterator[Path]:
    """Yield a name beside ``folder``, not there, for what is renamed to it in the end: it is whole or not there.

    Raises:
        FileError: it cannot be written.
    """
    with beside(folder) as parent:
        aside = parent / folder.name
        yield aside
        _put_in_place(aside, folder, parent / OLD)


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """Yield a folder on the same disk, which is removed in the end.

    Raises:
        FileError: it cannot be written.
    """
    try:
        with (
            folder_made(place.parent) as above,
            tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=above) as parent,
        ):
            yield Path(parent)
    except OSError as error:
        raise FileError(f"cannot write the bundle {place}: {reason(error)}") from error


def _put_in_place(made: Path, folder: Path, old: Path) -> None:
    """Rename ``made`` to ``folder``; what is there goes to ``old``, and comes back if that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
