"""``python -m edgecompress`` and the ``edgecompress`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from edgecompress.cli import run_command_line

    sys.exit(run_command_line())


if __name__ == "__main__":
    main()
