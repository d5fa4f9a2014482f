"""What may be replaced: files of our own kind. Everything else stays as it is, unless the user says ``--force``.

A file is of our own kind if it says so itself. Never replaced, not even by force: folders where a file is to be
written, and what is no regular file, such as a device or a pipe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from edgecompress.artifacts import KIND as ARTIFACT_KIND
from edgecompress.artifacts import facts_path, golden_path, profile_path
from edgecompress.errors import FileError, printable
from edgecompress.files import Json, read_json, sha256
from edgecompress.settings import Replaces

LARGEST_DOCUMENT = 1 << 28
"""Bytes; no document of ours is as large."""

PROFILE_KINDS = ("edgecompress.profile", "edgecompress.instructions")
LOG_HEADING = "# what a converter of edgecompress said when it failed\n"
REPORT_HEADING = ": compression report"
"""What the first lines of a report of ours hold."""


def document_in(path: Path) -> Json:
    """The JSON object in a file; an empty one where there is none, whatever is there."""
    try:
        whole = path.is_file() and path.stat().st_size <= LARGEST_DOCUMENT
        return read_json(path) if whole else {}
    except (FileError, OSError):
        return {}


def is_kind(*kinds: str) -> Callable[[Path], bool]:
    """Whether a file is a document of one of these kinds, of any version."""
    return lambda path: document_in(path).get("kind") in kinds


def is_measured(*kinds: str) -> Callable[[Path], bool]:
    """Whether a file is what ``profile -o`` writes, with a profile of one of these kinds in it."""

    def ours(path: Path) -> bool:
        profile = document_in(path).get("profile")
        return isinstance(profile, dict) and profile.get("kind") in kinds

    return ours


def is_report_page(path: Path) -> bool:
    """Whether a file begins as ``report.html`` or ``report.md`` does."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            head = stream.read(2000)
    except OSError:
        return False
    return REPORT_HEADING in head


def is_log(path: Path) -> bool:
    """Whether a file is a converter's log."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(LOG_HEADING)) == LOG_HEADING.encode()
    except OSError:
        return False


def nothing(path: Path) -> bool:
    """No file is of a kind that does not say so itself."""
    del path
    return False


def same_file(first: Path, second: Path) -> bool:
    """Whether two names are of one file that is there, by whatever links."""
    try:
        return first.samefile(second)
    except (OSError, ValueError):
        return False


def check_replaceable(path: Path, what: str, is_ours: Callable[[Path], bool], *, force: bool = False) -> None:
    """Prove that a file may be written at ``path``, before work is done for it; ``what`` it is, for the message.

    Raises:
        FileError: something is there that may not be replaced.
    """
    if path.is_symlink() and not force:
        raise FileError(f"{path}: is a symbolic link; name the file itself with -o, or replace the link with --force")
    if path.is_dir() and not path.is_symlink():
        raise FileError(f"{path}: is a folder, a file was expected; name a file with -o")
    if path.exists() and not path.is_file():
        raise FileError(f"{path}: is no regular file, which is never replaced; choose another name with -o")
    if path.exists() and not force and not is_ours(path):
        raise FileError(
            f"{path}: is there and is no {what} that edgecompress wrote; choose another name with -o, "
            "or replace it with --force"
        )


def check_export(
    path: Path,
    parts: Iterable[Path],
    companions: Iterable[Path],
    source: str,
    replaces: Replaces = "same model",
) -> None:
    """Prove that an export of the MODEL ``source`` may write ``path`` and what belongs to it.

    What is there must be what the facts beside it describe, by its digest, and of the same MODEL; ``ours``: that there
    are facts beside it is enough.

    Raises:
        FileError: something else is there.
    """
    facts, document = facts_path(path), document_in(facts_path(path))
    ours, force = document.get("kind") == ARTIFACT_KIND, replaces == "anything"
    if ours and replaces == "same model" and document.get("source") != source:
        raise FileError(
            f"{path}: was exported from {printable(document.get('source'))}, this is {printable(source)}: "
            "choose another folder with -o, or replace it with --force"
        )
    digests = _digests(path, document) if ours else {}

    def described(file: Path) -> bool:
        return ours and (replaces == "ours" or sha256(file) == digests.get(file.name))

    for file in (path, golden_path(path), *parts):
        _check_exported(file, described, force=force)
    for file in companions:
        _check_exported(file, lambda _: ours, force=force)
    _check_exported(facts, lambda _: ours, force=force)
    _check_exported(profile_path(path), is_kind(*PROFILE_KINDS), force=force)


def _digests(path: Path, facts: Json) -> dict[str, object]:
    parts = facts.get("parts")
    own = {path.name: facts.get("sha256"), golden_path(path).name: facts.get("golden_sha256")}
    return own | (parts if isinstance(parts, dict) else {})


def _check_exported(file: Path, is_ours: Callable[[Path], bool], *, force: bool) -> None:
    """As :func:`check_replaceable`, of a format that may be a folder too, which is replaced only if it is ours."""
    if not (file.is_dir() and not file.is_symlink() and is_ours(file)):
        check_replaceable(file, "file", is_ours, force=force)
