"""Where measurements are taken: one file and one line in ``DEVICES`` each."""

from __future__ import annotations

from edgecompress.devices.base import Device
from edgecompress.devices.local import Local

DEVICES: dict[str, type[Local]] = {
    "local": Local,
}

__all__ = ["DEVICES", "Device", "Local"]
