"""This machine: files are where they are, a command is a child process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgecompress.devices.base import NO_OPTIONS, Kind, Provenance
from edgecompress.devices.commands import checked, run_command
from edgecompress.files import Json
from edgecompress.settings import DeviceOptions


@dataclass(frozen=True, slots=True)
class LocalSession:
    """This machine in use."""

    name: str
    python: tuple[str, ...] = (sys.executable,)

    def push(self, *files: Path) -> str:
        """Nothing to copy."""
        return str(files[0].resolve())

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """A child process without a shell; killed when it takes too long or this process is interrupted.

        Its temporary files are in a folder that goes with it: what is killed removes none.
        """
        with tempfile.TemporaryDirectory(prefix="edgecompress-", ignore_cleanup_errors=True) as folder:
            environment = {**os.environ, "TMPDIR": folder}
            return checked(self.name, argv, run_command(self.name, argv, timeout_s=timeout_s, environment=environment))

    def facts(self) -> Json:
        """The kernel's architecture."""
        return {"machine": os.uname().machine}


@dataclass(frozen=True, slots=True)
class Local:
    """The machine edgecompress runs on, with its own interpreter."""

    name: str = "local"
    provenance: Provenance = "measured"
    options: DeviceOptions = NO_OPTIONS

    @contextmanager
    def session(self, modules: Sequence[str]) -> Iterator[LocalSession]:  # noqa: ARG002 - whatever is installed here
        """Nothing to set up or to clear away."""
        yield LocalSession(self.name)


def parse(rest: str, options: DeviceOptions) -> Local:
    """``local``."""
    assert not rest
    options.refuse_other_than("local")
    return Local()


KIND = Kind("", "this machine, in a process of its own", parse)
