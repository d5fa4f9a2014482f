"""``inspect``, ``list`` and ``doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.display import print_json, print_table, say, showing_progress
from edgecompress.cli.options import json_option, trust_option

if TYPE_CHECKING:
    from edgecompress.targets import Target

DATA_VARIABLE = "EDGECOMPRESS_DATA"
TABLES = ("methods", "selectors", "recipes", "targets", "devices", "sources", "platforms", "samples")
"""What there is to choose from; all but the samples can be added to."""


@click.command(epilog="Example: edgecompress inspect resnet20")
@click.argument("model")
@trust_option
@json_option
def inspect(model: str, trust: bool, as_json: bool) -> None:
    """Show layers, parameters and MACs, and which methods can decompose each layer, or why none can."""
    from edgecompress.costs import cost
    from edgecompress.sources import resolve

    sample = resolve(model, trust=trust)
    built = sample.model()
    total, layers = cost(built, sample.inputs), _layers(built, sample.inputs)
    if as_json:
        print_json({"model": sample.name, "cost": total.to_json(), "layers": layers})
        return
    counted = sum(item["macs"] or 0 for item in layers)
    rows = [
        (item["name"], item["kind"], item["params"], item["macs"], ", ".join(item["methods"]) or item["reason"])
        for item in layers
    ]
    if counted != total.macs:
        rows.append(("(all other products)", "", None, total.macs - counted, "attention, recurrent and other layers"))
    print_table(sample.name, ("layer", "kind", "parameters", "MACs", "methods"), rows)
    say(f"{total.params:,} parameters, {total.macs:,} MACs of one input ({total.flops:,} FLOPs = 2 x MACs)")


def _layers(model: Any, inputs: Any) -> list[dict[str, Any]]:
    from edgecompress.costs import input_shapes
    from edgecompress.decompositions import DECOMPOSITIONS
    from edgecompress.layers import describe, weighted_layers
    from edgecompress.planning import countable_cost

    shapes = input_shapes(model, inputs)
    return [
        {
            "name": item.name,
            "kind": describe(item.layer),
            **countable_cost(item.layer, shapes.get(item.name, [])),
            "methods": [] if item.refused else [n for n, m in DECOMPOSITIONS.items() if m.supports(item.layer)],
            "reason": item.refused or None,
        }
        for item in weighted_layers(model)
    ]


@click.command("list", epilog="Example: edgecompress list samples")
@click.argument("what", type=click.Choice(TABLES))
@json_option
def list_entries(what: str, as_json: bool) -> None:
    """Show what there is to choose from."""
    entries = _samples() if what == "samples" else _table(what)
    if as_json:
        print_json({what: entries})
        return
    names = list(next(iter(entries.values())))
    print_table(what, (what[:-1], *names), [(name, *facts.values()) for name, facts in entries.items()])


def _samples() -> dict[str, dict[str, Any]]:
    from edgecompress.sources import sample_facts

    columns = ("title", "dataset", "params", "macs", "test_accuracy", "licence")
    return {name: {column: facts[column] for column in columns} for name, facts in sample_facts().items()}


def _table(what: str) -> dict[str, dict[str, Any]]:
    from edgecompress.codecs import CODECS
    from edgecompress.decompositions import DECOMPOSITIONS
    from edgecompress.devices import DEVICES
    from edgecompress.platforms import PLATFORMS
    from edgecompress.recipes import RECIPES
    from edgecompress.selectors import SELECTORS
    from edgecompress.sources import SOURCES
    from edgecompress.targets import TARGETS

    tables: dict[str, dict[str, Any]] = {
        "methods": {**DECOMPOSITIONS, **CODECS},
        "selectors": dict(SELECTORS),
        "recipes": dict(RECIPES),
        "targets": dict(TARGETS),
        "devices": dict(DEVICES),
        "sources": dict(SOURCES),
        "platforms": dict(PLATFORMS),
    }
    entries = {name: {"summary": entry.summary} for name, entry in tables[what].items()}
    if what == "devices":
        return {
            name + (f":{kind.form}" if kind.form else ""): {"summary": kind.summary} for name, kind in DEVICES.items()
        }
    if what == "targets":
        for name, facts in entries.items():
            facts |= {"precisions": ", ".join(TARGETS[name].precisions), "installed": _found(TARGETS[name])}
    return entries


@click.command(epilog="Example: edgecompress doctor --setup emulated")
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
        print_table("doctor", ("check", "", "found"), [(c["name"], marks[c["ok"]], c["found"]) for c in checks])
    return 3 if bad else 0


def _set_up(yes: bool, as_json: bool) -> int:
    """The emulated device; says what that takes, then asks."""
    from edgecompress.devices.emulated.setup import is_installed, planned, set_up
    from edgecompress.reporting.wording import bytes_text

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
    from edgecompress.reporting.wording import bytes_text

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
    try:
        return {"name": name, "ok": True, "found": importlib.metadata.version(name)}
    except importlib.metadata.PackageNotFoundError:
        return {"name": name, "ok": False, "found": f"not installed; pip install {name}"}


def _targets() -> list[dict[str, Any]]:
    """What each target that is an extra needs, has, and was verified with."""
    from edgecompress.targets import TARGETS

    return [
        {"name": f"target {target.name}", "ok": _all_there(target), "found": _found(target)}
        for target in TARGETS.values()
        if target.extra
    ]


def _all_there(target: Target) -> bool | None:
    from edgecompress.targets.child_converter import missing

    return None if missing(target) else True


def _found(target: Target) -> str:
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
    from edgecompress.sources import is_whole, sample_facts

    whole = {name: is_whole(name) for name in sample_facts()}
    said = {True: "weights whole", False: "weights missing or damaged"}
    return [{"name": f"sample {name}", "ok": ok, "found": said[ok]} for name, ok in whole.items()]


COMMANDS = (inspect, list_entries, doctor)
