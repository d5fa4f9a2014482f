"""This machine: files are where they are, a command is a child process."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import DeviceError
from edgecompress.profiles import Provenance

LAST_LINES = 5


@dataclass(frozen=True, slots=True)
class Local:
    """The machine edgecompress runs on."""

    name: str = "local"
    provenance: Provenance = "measured"
    python: str = sys.executable
    summary: str = "this machine, in a process of its own"

    def push(self, file: Path) -> str:
        """Nothing to copy."""
        return str(file.resolve())

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """A child process without a shell; killed when it takes too long or this process is interrupted."""
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
            )
        except OSError as error:
            raise self._failed(argv, None, f"cannot be started: {error}") from error
        except subprocess.TimeoutExpired as error:
            raise self._failed(argv, None, f"gave no answer within {timeout_s:g} s") from error
        if done.returncode:
            last = " | ".join(done.stderr.strip().splitlines()[-LAST_LINES:]) or "it wrote nothing to stderr"
            raise self._failed(argv, done.returncode, f"ended with {done.returncode}: {last}")
        return done.stdout

    def _failed(self, argv: Sequence[str], returncode: int | None, what: str) -> DeviceError:
        command = Path(argv[0]).name
        return DeviceError(f"local: {command} {what}", device=self.name, command=argv[0], returncode=returncode)
