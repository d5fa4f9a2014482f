"""Rows that are measured in a process of their own: processor seconds, peak memory, a limit on both in one place."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from rows import Row

Result = TypeVar("Result")
KILOBYTE, MEGABYTE = 1 << 10, 10**6
PEAK, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def used(work: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
    """What ``work`` gives; the processor seconds it took and the most memory that this process had meanwhile, in MB."""
    RESET.write_text("5", encoding="ascii")  # Linux: the peak counts from now on
    start = time.process_time()
    result = work()
    return result, {"cpu_s": round(time.process_time() - start, 1), "peak_mb": peak_mb()}


def peak_mb() -> int:
    """The most memory that this process had since the last reset."""
    line = next(line for line in PEAK.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return round(int(line.split()[1]) * KILOBYTE / MEGABYTE)


def say(**fields: object) -> None:
    """In a child: fields of the row, as soon as they are known."""
    print(json.dumps(fields), flush=True)


def in_child(script: str, setting: Row, limit_s: int, options: Sequence[str] = ()) -> Row:
    """What ``script --row SETTING`` says of itself; what it got to within the limit of processor seconds.

    Raises:
        RuntimeError: it failed, with the end of what it wrote.
    """
    command = [sys.executable, script, "--row", json.dumps(setting), *options]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, preexec_fn=limit, check=False)
    row = dict(setting)
    for line in done.stdout.splitlines():
        row.update(json.loads(line) if line.startswith("{") else {})
    if done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}:
        return {**row, "not_done_s": limit_s}
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return row


def read_rows(file: Path) -> list[Row]:
    """The rows of a file with one in each line; none where it is not there."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def measure_missing(file: Path, wanted: Sequence[Row], measure: Callable[[Row], Row]) -> None:
    """Append the row of each setting that ``file`` has none of."""
    for setting in wanted:
        if not any(setting.items() <= row.items() for row in read_rows(file)):
            row = measure(setting)
            with file.open("a", encoding="utf-8") as rows:
                rows.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
