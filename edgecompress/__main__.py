"""``python -m edgecompress`` and the ``edgecompress`` command."""

from __future__ import annotations

import os
import sys

if sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109 - before anything is imported that could lie there
    del sys.path[0]  # `python -m` puts it first; a received folder one works in gives no module in place of a library

import signal
from types import FrameType

INTERRUPTED, STOPPED = 130, 128
"""Exit codes: of Ctrl-C; of another signal, with its number added."""


def main() -> None:
    """Run the command line and exit with its code."""
    got: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        """End as by Ctrl-C: files are cleaned up, and nothing takes it for an error or for sys.exit() of user code."""
        got.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):  # killed; its terminal was closed
        if signal.getsignal(number) is not signal.SIG_IGN:  # as by nohup
            signal.signal(number, stop)
    try:
        from edgecompress.cli import run_command_line

        code = run_command_line()
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(STOPPED + got[0] if got else code)


if __name__ == "__main__":
    main()
