"""What a device is: somewhere to put files and a way to run a command. It knows nothing about models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edgecompress.profiles import Provenance


class Device(Protocol):
    """A machine that measurements are taken on."""

    @property
    def name(self) -> str:
        """As on the command line: ``local``."""

    @property
    def provenance(self) -> Provenance:
        """What its numbers are: measured, emulated or predicted."""

    @property
    def python(self) -> str:
        """The interpreter that runs the stand-alone runners there."""

    def push(self, file: Path) -> str:
        """Make ``file`` available there; returns its path on the device."""

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """Run a command (no shell) and return its standard output.

        Raises:
            DeviceError: it cannot be run, fails, or takes too long.
        """
