"""``bundle``, and what ``verify`` says of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgecompress.cli.building import made
from edgecompress.cli.commands import Command
from edgecompress.cli.display import print_json, print_table, say
from edgecompress.cli.fields import option, options_of
from edgecompress.cli.options import FILES, force_option, json_option, output_option
from edgecompress.cli.types import TableChoice
from edgecompress.cli.writing import announcing
from edgecompress.settings import USUAL_PLATFORM, BundleOptions


@click.command(
    cls=Command, epilog="Example: edgecompress bundle out/lenet5/model.onnx --platform pi -o app && python app/run.py"
)
@click.argument("artifact", type=click.Path(path_type=Path))
@option(
    "--platform",
    type=TableChoice("edgecompress.platforms:PLATFORMS"),
    default=USUAL_PLATFORM,
    group=FILES,
    help=f"What the bundle is for. [{USUAL_PLATFORM}]",
)
@options_of(BundleOptions, group=FILES)
@output_option("Folder, or FILE.zip, to make; an older bundle there is replaced.")
@force_option
@json_option
def bundle(artifact: Path, platform: str, output: Path, force: bool, as_json: bool, **given: Any) -> None:
    """Package an exported file for an app: manifest, golden files, and a runner that checks them anywhere."""
    from edgecompress.bundling import bundled
    from edgecompress.reporting.numbers import bytes_text

    options = made(BundleOptions, given)
    with announcing(output):
        ready = bundled(artifact, output, platform=platform, options=options, force=force)
    if as_json:
        print_json({"bundle": str(output), "manifest": ready.manifest.to_json()})
        return
    files = ready.manifest.files
    rows = [(file.path, file.role, bytes_text(file.size_bytes), file.sha256[:16]) for file in files]
    print_table(f"Bundle {output}", ("file", "role", "size", "sha256"), rows)
    runtime, weight = ready.manifest.runtime, bytes_text(ready.manifest.bytes_of("model"))
    beside = "of unknown size" if runtime.library_bytes is None else f"of {bytes_text(runtime.library_bytes)}"
    library = " ".join(filter(None, (runtime.name, runtime.tested)))
    say(f"the model takes {weight}, beside its runtime {library} {beside}")
    say(_how_to_check(platform, output))


def _how_to_check(platform: str, output: Path) -> str:
    """In words and with the command; of an archive after unpacking it."""
    from edgecompress.platforms import platform_named

    if output.suffix != ".zip":
        return platform_named(platform).check(output)
    folder = output.with_suffix("")
    return f"unzip {output} -d {folder}, and {platform_named(platform).check(folder)}"


def check_bundle_at(path: Path, *, as_json: bool) -> None:
    """Check a bundle, and print what was found."""
    from edgecompress.bundling.checking import check

    found = check(path)
    if as_json:
        print_json({"bundle": str(path), **found.to_json()})
        return
    row = (found.model, found.platform, str(found.files), found.golden, found.image)
    print_table(f"Verified {path}", ("model", "platform", "files, whole", "golden error", "image error"), [row])
