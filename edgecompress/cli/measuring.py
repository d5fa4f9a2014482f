"""``profile`` and ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.display import print_json, print_table, say
from edgecompress.cli.options import device_option, json_option, output_option, seconds_option, threads_option

if TYPE_CHECKING:
    from edgecompress.profiles import Profile


@click.command(epilog="Example: edgecompress profile out/model.onnx --baseline out/dense.onnx --device local")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--baseline", type=click.Path(path_type=Path), help="Measure this too, interleaved, and give a verdict.")
@device_option
@threads_option
@click.option("--batch", type=click.IntRange(1, 65_536), default=1, show_default=True)
@click.option("--runs", type=click.IntRange(2, 1_000_000), default=50, show_default=True, help="At least so many runs.")
@seconds_option
@output_option("Write the JSON document to this file too.", required=False)
@json_option
def profile(
    artifact: Path,
    baseline: Path | None,
    device: str,
    threads: int,
    batch: int,
    runs: int,
    seconds: float,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure an exported file: size, load time, first run, latency, memory; and against a baseline."""
    from edgecompress.files import make_folder, write_json
    from edgecompress.profiling import compare as compare_files
    from edgecompress.profiling import device_named
    from edgecompress.profiling import profile as profile_file
    from edgecompress.wording import latency_clause

    place, options = device_named(device), {"threads": threads, "batch": batch, "runs": runs, "seconds": seconds}
    files = [artifact] if baseline is None else [artifact, baseline]
    profiles = [profile_file(file, place, **options) for file in files]  # type: ignore[arg-type]
    document: dict[str, Any] = {"profile": profiles[0].to_json()}
    if baseline is not None:
        pair = compare_files(artifact, baseline, place, **options)  # type: ignore[arg-type]
        document |= {"baseline": profiles[1].to_json(), "comparison": pair.to_json()}
    if output is not None:
        make_folder(output.parent)
        write_json(output, document)
    if as_json:
        print_json(document)
        return
    print_profiles(profiles)
    if baseline is not None:
        say(f"against {baseline.name}: {latency_clause(document['comparison'])}")


def print_profiles(profiles: list[Profile]) -> None:
    """One column for each profile."""
    measures = [_measures(profile) for profile in profiles]
    rows = [(name, *(measure[name] for measure in measures)) for name in measures[0]]
    device = profiles[0].device
    where = f"{device.provenance} on {device.name} ({device.processor}), {profiles[0].threads} thread(s)"
    print_table(f"Profile, {where}", ("", *(profile.file for profile in profiles)), rows)


def _measures(profile: Profile) -> dict[str, str | int | None]:
    from edgecompress.wording import bytes_text

    wall, cpu = (profile.latency.summary()[clock] for clock in ("wall", "cpu"))
    return {
        "file": bytes_text(profile.size_bytes),
        "file, zipped": bytes_text(profile.zipped_bytes),
        "weights": "" if profile.weight_bytes is None else bytes_text(profile.weight_bytes),
        "parameters": profile.params,
        "MACs": profile.macs,
        "load, ms": f"{profile.load_ms:.2f}",
        "first run, ms": f"{profile.first_run_ms:.3f}",
        **{f"wall {mark}, ms": f"{wall[mark]:.3f}" for mark in ("p50", "p90", "p99", "min", "stdev")},
        "CPU p50, ms": f"{cpu['p50']:.3f}",
        "runs": len(profile.latency.all_wall_ms()),
        "peak memory": bytes_text(profile.peak_rss_bytes),
        "of it the runtime": bytes_text(profile.runtime_rss_bytes),
    }


@click.command(epilog="Example: edgecompress compare dense.profile.json model.profile.json")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@json_option
def compare(first: Path, second: Path, as_json: bool) -> None:
    """Show two profiles (written by run or profile -o) side by side.

    They were measured at different times: for a speed-up with an interval use `profile A --baseline B`.
    """
    profiles = [_load(path) for path in (first, second)]
    same = _refuse_different_circumstances(*profiles)
    if as_json:
        print_json({"circumstances": same, "profiles": [profile.to_json() for profile in profiles]})
        return
    print_profiles(profiles)
    say("measured one after the other: for a speed-up with an interval use `edgecompress profile A --baseline B`")


def _load(path: Path) -> Profile:
    from edgecompress.errors import FileError
    from edgecompress.files import read_json
    from edgecompress.profiles import Profile

    document = read_json(path)
    try:
        return Profile.from_json(document.get("profile", document))
    except FileError as error:
        raise FileError(f"{path}: {error}") from None


def _refuse_different_circumstances(first: Profile, second: Profile) -> dict[str, Any]:
    from edgecompress.errors import FileError

    ours, theirs = (
        {"device": p.device.name, "processor": p.device.processor, "provenance": p.device.provenance,
         "runtime": dict(p.runtime), "threads": p.threads, "batch": p.batch}
        for p in (first, second)
    )  # fmt: skip
    for key, value in ours.items():
        if value != theirs[key]:
            raise FileError(f"the profiles do not compare: {key} is {value} in one and {theirs[key]} in the other")
    return ours


COMMANDS = (profile, compare)
