"""Running a program of this machine (ssh, adb, an emulator) with a limit on its time and on what it writes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgecompress.errors import DeviceError

LAST_LINES = 5
LINE_LENGTH = 200
MOST_BYTES = 64 << 20
"""More than any program that measures prints."""
POLL_S = 0.02
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program wrote, and how it ended."""

    stdout: str
    stderr: str
    returncode: int


def last_lines(*texts: str) -> str:
    """The last lines of the first text that has any, on one line and without control characters."""
    for text in texts:
        lines = [CONTROL.sub(" ", line).strip()[:LINE_LENGTH] for line in text.strip().splitlines()]
        if lines := [line for line in lines if line][-LAST_LINES:]:
            return " | ".join(lines)
    return "it wrote nothing"


def run_command(
    device: str,
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run ``argv`` without a shell, fed from the file ``stdin``; its whole process group is killed in the end.

    Raises:
        DeviceError: it cannot be started, takes too long, or writes more than ``MOST_BYTES``.
    """
    with contextlib.ExitStack() as stack:
        fed = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
        out, err = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        try:
            process = subprocess.Popen(argv, stdin=fed, stdout=out, stderr=err, start_new_session=True, env=environment)
        except OSError as error:
            raise failed(device, argv, None, f"cannot be started: {error.strerror or error}") from error
        with ended(process):
            why = _wait(process, time.monotonic() + timeout_s, (out, err))
        stdout, stderr = _text(out), _text(err)
    if why:
        what = f"gave no answer within {timeout_s:g} s" if why == "time" else f"wrote over {MOST_BYTES >> 20} MiB"
        raise failed(device, argv, None, f"{what}; last: {last_lines(stderr, stdout)}")
    return Finished(stdout, stderr, process.returncode)


def _wait(process: subprocess.Popen[bytes], end: float, streams: Sequence[IO[bytes]]) -> str:
    """Until it ends (empty), or why it must."""
    while process.poll() is None:
        if time.monotonic() > end:
            return "time"
        if sum(os.fstat(stream.fileno()).st_size for stream in streams) > MOST_BYTES:
            return "size"
        time.sleep(POLL_S)
    return ""


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Leave no process of the group behind, whatever happens."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def release(keeper: subprocess.Popen[bytes], last_words: bytes = b"", *, grace_s: float) -> None:
    """Let go of a process that waits for the end of its input, and wait for it to clear away."""
    assert keeper.stdin is not None
    with contextlib.suppress(OSError):
        keeper.stdin.write(last_words)
        keeper.stdin.close()
    try:
        keeper.wait(grace_s)
    except subprocess.TimeoutExpired:
        os.killpg(keeper.pid, signal.SIGKILL)
        keeper.wait()
    if keeper.stdout is not None:
        keeper.stdout.close()


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(MOST_BYTES).decode(errors="replace")


def checked(device: str, argv: Sequence[str], done: Finished) -> str:
    """The standard output of a program that ended well.

    Raises:
        DeviceError: it did not.
    """
    if done.returncode:
        last = last_lines(done.stderr, done.stdout)
        raise failed(device, argv, done.returncode, f"ended with {done.returncode}: {last}")
    return done.stdout


def failed(device: str, argv: Sequence[str], returncode: int | None, what: str) -> DeviceError:
    """The error of a command on a device."""
    return DeviceError.of(device, f"{Path(argv[0]).name} {what}", command=argv[0], returncode=returncode)
