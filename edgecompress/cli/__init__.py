"""The command line: a click shell over the stages, and the one place that turns errors into exit codes.

Commands import the stages when they run, so that ``--help`` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import click

from edgecompress import __version__
from edgecompress.cli import (
    bundling,
    compressing,
    doctor,
    exporting,
    inspecting,
    measuring,
    planning,
    running,
    searching,
    starting,
    timing,
)
from edgecompress.cli.commands import Group
from edgecompress.cli.display import complain
from edgecompress.errors import EdgeCompressError, first_line, raised_at
from edgecompress.memory import is_shortage

INTERRUPTED = 130
DEFECT = 70
"""Of this package: neither the user's code nor the input is to blame."""

EPILOG = """\b
Exit codes: 0 done, 1 a check failed (parity, budget), 2 usage or bad input, 3 a missing extra,
4 device, 70 a defect of edgecompress itself, 130 interrupted.
\b
Example:
  edgecompress run lenet5 --keep 0.25 --epochs 3 -o out/lenet5
"""


@click.group(
    cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="edgecompress")
def group() -> None:
    """Make a PyTorch model ready for phones and small boards, and prove the gain.

    MODEL is a sample (see `edgecompress list samples`), file.py, file.py:name, file.onnx, file.pt2,
    package.module:name, or a compressed-model folder.
    """


def _keep_stdout(callback: Callable[..., Any]) -> Callable[..., Any]:
    """While a command runs, stdout is for its own document; what user code prints goes to stderr."""

    @functools.wraps(callback)
    def run(*arguments: Any, **options: Any) -> Any:
        with contextlib.redirect_stdout(sys.stderr):
            return callback(*arguments, **options)

    return run


SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "One stage": (
        inspecting.inspect,
        timing.timings,
        planning.plan,
        searching.search,
        compressing.compress,
        exporting.export,
        exporting.verify,
        measuring.profile,
        bundling.bundle,
    ),
    "All stages": (running.run, running.report),
    "Against each other, or against limits": (measuring.compare, measuring.check),
    "What there is, and a start": (starting.init, inspecting.list_entries, doctor.doctor),
}
"""The commands in the order of the work."""

for heading, commands in SECTIONS.items():
    group.add_section(heading, commands)
    for command in commands:
        assert command.callback is not None
        command.callback = _keep_stdout(command.callback)


def _unexpected(error: Exception) -> int:
    """Out of memory in words, anything else as a defect with its place."""
    said = first_line(error, "no message")
    if is_shortage(error):
        click.echo(
            f"error: out of memory ({said[:200]}); use fewer --calibrate inputs, a smaller --batch-size, or a machine "
            "with more memory",
            err=True,
        )
        return 2
    place = raised_at(error)
    where = f" ({place[0]}:{place[1]})" if place else ""
    click.echo(f"error: unexpected {type(error).__name__}: {said}{where}; this is a defect of edgecompress", err=True)
    return DEFECT


def _refused_by_system(error: OSError) -> int:
    """What the operating system said, of which file; where a disk is full it may be that of temporary files."""
    said = (error.strerror or str(error)).lower()
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        place = tempfile.gettempdir()
        click.echo(
            f"error: a temporary file in {place}, or the output: {said}; free some space, or name another folder for "
            "temporary files: TMPDIR=FOLDER edgecompress ...",
            err=True,
        )
    else:
        click.echo(f"error: {error.filename or 'writing the output'}: {said}", err=True)
    return 2


def run_command_line(arguments: list[str] | None = None) -> int:  # noqa: PLR0911 - one return an exit code
    """Run and return the exit code; every error is one message on stderr, never a traceback."""
    try:
        result = group.main(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("\ninterrupted; run and compress go on from where they were when given again", err=True)
        return INTERRUPTED
    except EdgeCompressError as error:
        complain(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        return _refused_by_system(error)
    except Exception as error:  # the last resort
        return _unexpected(error)
    return result if isinstance(result, int) else 0
