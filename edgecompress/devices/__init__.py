"""Where measurements are taken: one file and one line in ``DEVICES`` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgecompress.devices import adb, emulated, local, ssh
from edgecompress.devices.base import NO_OPTIONS, CountingSession, Device, Session
from edgecompress.devices.local import Local
from edgecompress.errors import DeviceError
from edgecompress.settings import DeviceOptions


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device: what stands behind its name and a colon, one line for people, and how to make it.

    ``parse`` gets what stands behind the colon (empty where ``form`` is) and the options.
    """

    form: str
    summary: str
    parse: Callable[[str, DeviceOptions], Device]


DEVICES: dict[str, Kind] = {
    "local": Kind("", local.SUMMARY, local.parse),
    "ssh": Kind(ssh.FORM, ssh.SUMMARY, ssh.parse),
    "adb": Kind(adb.FORM, adb.SUMMARY, adb.parse),
    "emulated": Kind(emulated.FORM, emulated.SUMMARY, emulated.parse),
}


def forms() -> dict[str, Kind]:
    """Each kind by how it is given: ``local``, ``ssh:user@host[:port]``."""
    return {name + (f":{kind.form}" if kind.form else ""): kind for name, kind in DEVICES.items()}


def device_named(name: str, options: DeviceOptions = NO_OPTIONS) -> Device:
    """The device that a ``--device`` value names; nothing is connected to yet.

    Args:
        name: ``local``, ``ssh:USER@HOST[:PORT]``, ``adb:SERIAL`` or ``emulated:CPU``, as ``ssh:pi@board``.
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


__all__ = ["DEVICES", "CountingSession", "Device", "DeviceOptions", "Kind", "Local", "Session", "device_named"]
