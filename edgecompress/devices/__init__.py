"""Where measurements are taken: one file and one line in ``DEVICES`` each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgecompress.devices import adb, emulated, local, ssh
from edgecompress.devices.base import NOTHING_SAID, CountingSession, Device, DeviceOptions, Session
from edgecompress.devices.local import Local
from edgecompress.errors import DeviceError


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device: what stands behind its name and a colon, one line for people, and how to make it.

    ``named`` gets what stands behind the colon (empty where ``form`` is) and the options.
    """

    form: str
    summary: str
    named: Callable[[str, DeviceOptions], Device]


DEVICES: dict[str, Kind] = {
    "local": Kind("", local.SUMMARY, local.named),
    "ssh": Kind(ssh.FORM, ssh.SUMMARY, ssh.named),
    "adb": Kind(adb.FORM, adb.SUMMARY, adb.named),
    "emulated": Kind(emulated.FORM, emulated.SUMMARY, emulated.named),
}


def device_named(name: str, options: DeviceOptions = NOTHING_SAID) -> Device:
    """The device that a ``--device`` value names, as ``local`` or ``ssh:pi@board``.

    Raises:
        DeviceError: there is none of that name, or an option does not go with it.
    """
    head, colon, rest = name.partition(":")
    kind = DEVICES.get(head)
    if kind is None or bool(kind.form) != bool(rest) or (colon and not rest):
        forms = ", ".join(head + (f":{kind.form}" if kind.form else "") for head, kind in DEVICES.items())
        raise DeviceError(f"no device {name!r}; there are {forms}", device=name, command="", returncode=None)
    return kind.named(rest, options)


__all__ = ["DEVICES", "CountingSession", "Device", "DeviceOptions", "Kind", "Local", "Session", "device_named"]
