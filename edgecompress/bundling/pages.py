"""Bundles as one page: the files in it, read as if somebody meant harm, and proof that the page is theirs."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from pathlib import Path

from edgecompress.bundling.archives import MOST_BYTES, MOST_RATIO, RATIO_FROM_BYTES
from edgecompress.errors import FileError, printable
from edgecompress.manifests import FILE, MOST_FILES
from edgecompress.manifests.reading import is_path
from edgecompress.platforms import platform_named

PART = re.compile(rb'<script type="text/plain" data-path="([^"]*)">([A-Za-z0-9+/=]*)</script>\n')
"""A file of the bundle: its path, and gzip in base64."""
GZIP = 31
"""What zlib calls a gzip stream."""


def unpack_page(path: Path, folder: Path) -> None:
    """Write the files in a page into an empty folder, once names and sizes are proved harmless.

    Raises:
        FileError: none are there, a name leads out of the folder or is there twice, or they are too many or too large.
    """
    parts = PART.findall(_read(path))
    if not parts or len(parts) > MOST_FILES + 1:
        raise FileError(f"{path}: holds no bundle: no page with {FILE} and the files that it lists")
    seen, total = set[str](), 0
    for name, text in parts:
        inside = name.decode(errors="replace")
        if not is_path(inside):
            raise FileError(f"{path}: {printable(repr(inside))} is not the path of a file in a bundle")
        if inside.lower() in seen:
            raise FileError(f"{path}: {inside} is there twice")
        seen.add(inside.lower())
        content = _unpacked(path, inside, text)
        total += len(content)
        if total > MOST_BYTES:
            raise FileError(f"{path}: would take more than {MOST_BYTES:,} bytes unpacked")
        (folder / inside).parent.mkdir(parents=True, exist_ok=True)
        (folder / inside).write_bytes(content)


def check_page(path: Path, folder: Path, platform: str) -> None:
    """Prove that what a browser runs of a page is what the platform makes of the files in it, in ``folder``.

    Raises:
        FileError: it is not.
    """
    if PART.sub(b"", _read(path)) != PART.sub(b"", platform_named(platform).page(folder)):
        raise FileError(
            f"{path}: is not the page that this version makes of the bundle in it: was it changed, or made by another?"
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None


def _unpacked(path: Path, inside: str, text: bytes) -> bytes:
    try:
        packed = base64.b64decode(text, validate=True)
        stream = zlib.decompressobj(GZIP)
        most = max(RATIO_FROM_BYTES, MOST_RATIO * len(packed))
        content = stream.decompress(packed, most)
    except (binascii.Error, zlib.error) as error:
        raise FileError(f"{path}: {inside} is no whole gzip stream ({printable(error)})") from None
    if stream.unconsumed_tail:
        raise FileError(f"{path}: {inside} is larger than its {len(packed):,} packed bytes may be, as in a zip bomb")
    if not stream.eof:
        raise FileError(f"{path}: {inside} is no whole gzip stream")
    return content
