"""Where a measurement was taken, as profiles and comparisons hold it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecompress.devices.base import Provenance

VERSION = 2
"""Of the documents of profiles and comparisons."""


LENGTHS = {"length": None, "past": None}
"""Fields that are left out of documents where inputs are no sequences."""


def family(machine: str) -> str:
    """``arm``, ``x86`` or another family of processors, by an architecture's name as ``uname -m`` prints it."""
    if machine.startswith(("aarch64", "arm")):
        return "arm"
    return "x86" if machine in ("x86_64", "amd64", "i686", "i386") else machine


def common_values(document: object, names: Iterable[str]) -> dict[str, Any]:
    """The fields of these names, but the lengths of sequences where inputs are none."""
    fields = {name: getattr(document, name) for name in names}
    return {name: value for name, value in fields.items() if name not in LENGTHS or value is not None}


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Where a measurement was taken; ``more`` is what else the device reports (governor, memory, uname ...)."""

    name: str
    provenance: Provenance
    machine: str
    processor: str
    cores: int
    system: str
    python: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_arm(self) -> bool:
        """Whether its kernel runs on an ARM core; a virtual board or phone may run on anything."""
        return family(self.machine) == "arm" and not self.more.get("virtual")


def provenance(claimed: Provenance, machine: str, kernel: str) -> Provenance:
    """Emulated if a program's architecture is not of the family of its kernel's; else what the device claims."""
    return claimed if family(machine) == family(kernel) else "emulated"
