"""``init``: a model file to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from edgecompress.cli.commands import Command
from edgecompress.cli.display import say
from edgecompress.cli.options import force_option
from edgecompress.cli.writing import file_to_write


@click.command(cls=Command, epilog="Example: edgecompress init my_model.py --weights weights.pth")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Trained weights that it loads: .pth, .pt, .ckpt, .safetensors."
)
@force_option
def init(file: Path, weights: Path | None, force: bool) -> None:
    """Write a model file of ten lines, to be filled in: the class of the model, its input, its data."""
    from edgecompress.errors import FileError
    from edgecompress.files import write_text
    from edgecompress.sources.weights_files import model_file

    if file.suffix != ".py":
        raise FileError(f"{file}: a model file is Python; name it {file.with_suffix('.py')}")
    text = model_file(file, weights)
    if file.exists() and not force:
        raise FileError(f"{file}: is there; choose another name, or replace it with --force")
    file_to_write(file, "model file", lambda _: False, inputs=[weights] if weights else [], force=force)
    write_text(file, text)
    say(f"{file}: name your class where it says their_code, and the shape of its input in example()")
    say(f"next:   edgecompress inspect {shlex.quote(str(file))}")
