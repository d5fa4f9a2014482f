"""``doctor``: what is there, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.commands import Command
from edgecompress.cli.display import print_json, print_table, say, showing_progress
from edgecompress.cli.options import json_option

if TYPE_CHECKING:
    from edgecompress.targets import Target

DATA_VARIABLE = "EDGECOMPRESS_DATA"


@click.command(cls=Command, epilog="Example: edgecompress doctor --setup emulated")
@click.option("--setup", type=click.Choice(["emulated"]), help="Build what this device needs, once, after asking.")
@click.option("--yes", is_flag=True, help="With --setup: do not ask.")
@click.option(
    "--python-bundle", type=click.Path(path_type=Path), help="Write a whole Python for a phone into this new folder."
)
@json_option
def doctor(setup: str | None, yes: bool, python_bundle: Path | None, as_json: bool) -> int:
    """Show versions, data, samples and devices, and what is wrong with them; exit code 3 if something is missing.

    --setup says what it will download and how big it is before doing so.
    """
    if setup is not None and python_bundle is not None:
        raise click.UsageError("--setup first, then --python-bundle")
    if setup is not None:
        return _set_up(yes, as_json)
    if python_bundle is not None:
        return _write_python_bundle(python_bundle, as_json)
    checks = [*_libraries(), *_targets(), *_devices(), _data(), *_samples_whole()]
    bad = [check for check in checks if check["ok"] is False]
    if as_json:
        print_json({"ok": not bad, "python": platform.python_version(), "checks": checks})
    else:
        marks = {True: "ok", False: "MISSING", None: "optional"}
        print_table("doctor", ("check", "", "present"), [(c["name"], marks[c["ok"]], c["found"]) for c in checks])
    return 3 if bad else 0


def _set_up(yes: bool, as_json: bool) -> int:
    """The emulated device; says what that takes, then asks."""
    from edgecompress.devices.emulated.setup import is_installed, planned, set_up
    from edgecompress.reporting.numbers import bytes_text

    plan, done = planned(), is_installed()
    if not done and not as_json:
        rows = [(item.what, item.source, bytes_text(item.bytes)) for item in plan.downloads]
        print_table("emulated: to download", ("what", "from", "size"), rows)
        say(f"{bytes_text(plan.bytes)} to download, {bytes_text(plan.disk_bytes)} on disk, in {plan.folder}")
    if not done and not yes:
        click.confirm("go on?", abort=True, err=True)
    with showing_progress() as progress:
        folder = set_up(progress)
    if as_json:
        print_json({"folder": str(folder), "already_there": done, "plan": plan.to_json()})
    else:
        say(f"{'ready already' if done else 'ready'}: {folder}")
    return 0


def _write_python_bundle(folder: Path, as_json: bool) -> int:
    """From the emulated device, for ``--device adb:SERIAL --python-bundle``."""
    from edgecompress.devices.emulated.portable_python import write_python_bundle
    from edgecompress.files import size_of
    from edgecompress.reporting.numbers import bytes_text

    write_python_bundle(folder)
    if as_json:
        print_json({"python_bundle": str(folder), "bytes": size_of(folder)})
    else:
        say(f"{folder}: {bytes_text(size_of(folder))}; give it to --device adb:SERIAL as --python-bundle {folder}")
    return 0


def _devices() -> list[dict[str, Any]]:
    """What devices other than this machine need here; none of it has to be there."""
    import shutil

    from edgecompress.devices.emulated.spec import SETUP, emulation_folder, is_installed

    programs = {"ssh": "openssh-client", "adb": "adb"}
    found = []
    for program, package in programs.items():
        path = shutil.which(program)
        install = f"not installed; apt-get install {package}"
        found.append({"name": f"device {program}", "ok": True if path else None, "found": path or install})
    whole = is_installed()
    text = str(emulation_folder()) if whole else f"not set up; {SETUP}"
    return [*found, {"name": "device emulated", "ok": True if whole else None, "found": text}]


def _libraries() -> list[dict[str, Any]]:
    from edgecompress.artifacts import LIBRARIES

    return [_library(name) for name in (*LIBRARIES, "scipy", "tensorly", "constriction", "click", "rich", "jinja2")]


def _library(name: str) -> dict[str, Any]:
    import importlib.metadata

    try:
        return {"name": name, "ok": True, "found": importlib.metadata.version(name)}
    except importlib.metadata.PackageNotFoundError:
        return {"name": name, "ok": False, "found": f"not installed; pip install {name}"}


def _targets() -> list[dict[str, Any]]:
    """What each target that is an extra needs, has, and was verified with."""
    from edgecompress.targets import TARGETS

    return [
        {"name": f"target {target.name}", "ok": _all_there(target), "found": found_of(target)}
        for target in TARGETS.values()
        if target.extra
    ]


def _all_there(target: Target) -> bool | None:
    from edgecompress.targets.child_converter import missing

    return None if missing(target) else True


def found_of(target: Target) -> str:
    """``litert-torch 0.10.0, ...`` with the verified version where it is another; or how to install it."""
    from edgecompress.targets.child_converter import installed, missing

    if lacking := missing(target):
        return f"{', '.join(lacking)} not installed; pip install 'edgecompress[{target.extra}]'"
    found = {name: installed(name) for name in target.needs}
    return ", ".join(
        f"{name} {own}" + ("" if own == target.needs[name] else f" (verified with {target.needs[name]})")
        for name, own in found.items()
    )


def _data() -> dict[str, Any]:
    folder = os.environ.get(DATA_VARIABLE)
    if not folder:
        return {"name": DATA_VARIABLE, "ok": None, "found": "not set: MNIST subset only, no CIFAR-10"}
    present = [name for name in ("mnist", "cifar-10-batches-bin") if (Path(folder) / name).is_dir()]
    return {
        "name": DATA_VARIABLE,
        "ok": None if not present else True,
        "found": ", ".join(present) or "holds neither set",
    }


def _samples_whole() -> list[dict[str, Any]]:
    from edgecompress.sources import sample_facts

    found = {name: _sample_whole(name) for name in sample_facts()}
    return [{"name": f"sample {name}", "ok": ok, "found": said} for name, (ok, said) in found.items()]


def _sample_whole(name: str) -> tuple[bool | None, str]:
    from edgecompress.errors import MissingExtra
    from edgecompress.sources import is_whole

    try:
        ok = is_whole(name)
    except MissingExtra as error:
        return None, str(error).partition(": ")[2]
    return ok, "weights whole" if ok else "weights missing or damaged"
