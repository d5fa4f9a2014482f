"""``python -m edgecompress`` and the ``edgecompress`` command."""

from __future__ import annotations

import os
import sys

if sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109 - before anything is imported that could lie there
    del sys.path[0]  # `python -m` puts it first; a received folder one works in gives no module in place of a library

import signal
from types import FrameType

INTERRUPTED, TERMINATED = 130, 143


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        from edgecompress.cli import run_command_line

        code = run_command_line()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    """End by an exception, so that child processes and half-written files are cleaned up."""
    raise SystemExit(TERMINATED)


if __name__ == "__main__":
    main()
