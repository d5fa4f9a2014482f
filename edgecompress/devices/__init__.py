"""Where measurements are taken: one file and one line in ``DEVICES`` each."""

from __future__ import annotations

from edgecompress.devices.base import (
    NO_OPTIONS,
    CountingSession,
    Device,
    Kind,
    PageSession,
    Session,
    is_counting,
    is_page,
)
from edgecompress.devices.local import Local
from edgecompress.errors import DeviceError
from edgecompress.settings import DeviceOptions
from edgecompress.tables import Table

DEVICES: Table[Kind] = Table(
    "edgecompress.devices",
    local="local:KIND",
    ssh="ssh:KIND",
    adb="adb:KIND",
    emulated="emulated:KIND",
    web="web:KIND",
)


def forms() -> dict[str, Kind]:
    """Each kind by how it is given: ``local``, ``ssh:user@host[:port]``."""
    return {name + (f":{kind.form}" if kind.form else ""): kind for name, kind in DEVICES.items()}


def device_named(name: str, options: DeviceOptions = NO_OPTIONS) -> Device:
    """The device that a ``--device`` value names; nothing is connected to yet.

    Args:
        name: ``local``, ``ssh:USER@HOST[:PORT]``, ``adb:SERIAL``, ``emulated:CPU`` or ``web``, as ``ssh:pi@board``.
        options: what only some kinds of device take: an interpreter, keys, programs.

    Returns:
        The device, for :func:`edgecompress.profile` and :func:`edgecompress.compare`.

    Raises:
        DeviceError: there is none of that name, or an option does not go with it.
    """
    head, colon, rest = name.partition(":")
    kind = DEVICES.get(head)
    if kind is None or bool(kind.form) != bool(rest) or (colon and not rest):
        message = f"no device {name!r}; there are {', '.join(forms())}"
        raise DeviceError(message, device=name, command="", returncode=None)
    return kind.parse(rest, options)


__all__ = [
    "DEVICES",
    "CountingSession",
    "Device",
    "DeviceOptions",
    "Kind",
    "Local",
    "PageSession",
    "Session",
    "device_named",
    "is_counting",
    "is_page",
]
