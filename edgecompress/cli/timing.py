"""``timings``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.building import made, one_of
from edgecompress.cli.commands import Command
from edgecompress.cli.display import complain, print_json, print_table, say, showing_progress
from edgecompress.cli.fields import options_of
from edgecompress.cli.options import (
    SELECTION,
    device_option,
    json_option,
    target_option,
    threads_option,
    trust_option,
)
from edgecompress.settings import DeviceOptions, Scope

if TYPE_CHECKING:
    from edgecompress.files import Json
    from edgecompress.timing import Timings


@click.command(cls=Command, epilog="Example: edgecompress timings resnet20 --target onnx --device local --threads 1")
@click.argument("model")
@target_option
@device_option
@threads_option
@options_of(Scope, "include", "exclude", group=SELECTION)
@trust_option
@json_option
def timings(
    model: str,
    targets: tuple[str, ...],
    device: str,
    threads: tuple[int, ...],
    trust: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Time what chains take in place of layers on a device, for plans of latency; times are kept and used again.

    All layers of one geometry are replaced at once in the whole dense file, which takes turns with the dense file.
    Interrupted, the same command goes on.
    """
    from edgecompress.devices import device_named
    from edgecompress.planning import survey
    from edgecompress.sources import resolve
    from edgecompress.targets import target_named
    from edgecompress.timing import bench_of
    from edgecompress.timing import timings as take

    target, number = one_of(targets, "--target"), one_of(threads or (1,), "--threads")
    place = device_named(device, made(DeviceOptions, given))
    scope = made(Scope, given)
    sample = resolve(model, trust=trust)
    seen = survey(sample.model(), sample.inputs, scope)
    at = bench_of(sample, seen, target_named(target), place, number)
    with showing_progress() as progress, at as bench:
        facts = _facts(take(bench, seen, scope, progress=progress))
    if as_json:
        print_json(facts)
    else:
        _print(facts)


def _facts(found: Timings) -> Json:
    """What was found, by geometry."""
    from dataclasses import asdict

    from edgecompress.timing.caching import TimingFile

    bench = found.bench
    rows = []
    for geometry in found.geometries:
        own = sorted((one for one in found.found if one.geometry == geometry.key), key=lambda one: one.share)
        fastest = own[0] if own else None
        rows.append(
            {
                "geometry": geometry.key,
                "layers": [item.name for item in geometry.items],
                "timings": [asdict(one) for one in own],
                "fastest": f"{fastest.method} {'x'.join(map(str, fastest.ranks))}" if fastest else None,
                "saves": -fastest.share * bench.dense_time if fastest else None,
                "spread": fastest.spread * bench.dense_time if fastest else None,
            }
        )
    return {
        "circumstances": asdict(bench.circumstances),
        "unit": bench.unit,
        "dense": bench.dense_time,
        "multiple": found.multiple,
        "geometries": rows,
        "file": str(TimingFile(bench.circumstances).path),
    }


def _print(facts: Json) -> None:
    from edgecompress.timing.stopwatches import load_here

    micro = facts["unit"] == "ns"
    unit, scale = ("us", 1e3) if micro else ("instructions", 1.0)
    rows = [
        (one["geometry"], len(one["layers"]), len(one["timings"]), one["fastest"],
         None if one["saves"] is None else f"{one['saves'] / scale:,.1f} +- {one['spread'] / scale:,.1f}")
        for one in facts["geometries"]
    ]  # fmt: skip
    header = ("geometry", "layers", "chains timed", "fastest", f"saves a layer, {unit}")
    print_table("Chains in place of layers, in the whole model", header, rows)
    at = facts["circumstances"]
    say(f"dense model: {facts['dense'] / scale:,.0f} {unit} on {at['device']} ({at['machine']}), {at['runtime']}, "
        f"{at['threads']} thread(s)")  # fmt: skip
    say(f"ranks are best multiples of {facts['multiple'] or 'a number that these times do not show'}")
    say(f"kept in {facts['file']}")
    if micro and at["device"] == "local" and load_here() > 2:
        complain(f"note: the machine is busy ({load_here():.1f} processes want a processor): CPU times in turns, noisy")
