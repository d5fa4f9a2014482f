"""What an app's bundle is for: one file and one line in ``PLATFORMS`` each. Importing it imports nothing heavy."""

from __future__ import annotations

from edgecompress.errors import FileError
from edgecompress.platforms.base import Platform
from edgecompress.tables import Table

PLATFORMS: Table[Platform] = Table(
    "edgecompress.platforms",
    android="android:Android",
    ios="ios:Ios",
    native="native:Native",
    pi="pi:Pi",
    web="web:Web",
)

__all__ = ["PLATFORMS", "Platform", "platform_named"]


def platform_named(name: str) -> Platform:
    """The entry of ``PLATFORMS``.

    Raises:
        FileError: there is none of that name.
    """
    if name not in PLATFORMS:
        raise FileError(f"no platform {name!r}; there is {', '.join(PLATFORMS)}")
    return PLATFORMS[name]
