"""The key of this user on this machine, made on first use: what it signs was written here, by this user.

``XDG_STATE_HOME/edgecompress/key``, or ``~/.local/state/edgecompress/key``: 32 random bytes for the user alone. One
that somebody else could have read or written is not used.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

BYTES = 32


def key_file() -> Path:
    """Where the key is, or will be."""
    shared = os.environ.get("XDG_STATE_HOME", "")
    base = Path(shared) if Path(shared).is_absolute() else Path.home() / ".local" / "state"
    return base / "edgecompress" / "key"


def made_key() -> bytes | None:
    """The key; made where there is none yet. None where it cannot be, or may not be used."""
    with contextlib.suppress(OSError, RuntimeError):  # nowhere to write to, or nobody's home
        _make(key_file())
    return own_key()


def own_key() -> bytes | None:
    """The key, or None: there is none, or others could have read or changed it."""
    try:
        handle = os.open(key_file(), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except (OSError, RuntimeError):
        return None
    with os.fdopen(handle, "rb") as file:
        key = file.read(BYTES + 1) if _private(os.fstat(handle)) and _private(key_file().parent.stat()) else b""
    return key if len(key) == BYTES else None


def _private(found: os.stat_result) -> bool:
    """Of this user, who alone may use it."""
    mine = hasattr(os, "geteuid") and found.st_uid == os.geteuid()
    return mine and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _make(file: Path) -> None:
    """Written aside and linked to its name: nobody reads half a key, and of two that are made at once one stays."""
    if file.exists():
        return
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = file.with_name(f".key.{secrets.token_hex(8)}")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(BYTES))
        with contextlib.suppress(FileExistsError):
            os.link(aside, file)
    finally:
        aside.unlink(missing_ok=True)
