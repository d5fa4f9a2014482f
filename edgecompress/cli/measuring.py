"""``profile``, ``compare`` and ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.building import made
from edgecompress.cli.commands import Command
from edgecompress.cli.display import print_json, print_table, say, showing_progress
from edgecompress.cli.fields import options_of
from edgecompress.cli.gating import limit_options
from edgecompress.cli.options import (
    MEASURING,
    device_option,
    force_option,
    json_option,
    output_option,
    threads_option,
)
from edgecompress.cli.writing import file_to_write
from edgecompress.settings import DeviceOptions, Effort

if TYPE_CHECKING:
    from edgecompress.profiling import Measured
    from edgecompress.profiling.instruction_counts import InstructionProfile
    from edgecompress.profiling.operators import ComparedLayer
    from edgecompress.profiling.profiles import Profile
    from edgecompress.reporting.checking import Check


@click.command(
    cls=Command, epilog="Example: edgecompress profile out/model.onnx --baseline out/dense.onnx --device local"
)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--baseline", type=click.Path(path_type=Path), help="Measure this too, taking turns, and give a verdict.")
@device_option
@threads_option
@options_of(Effort, group=MEASURING)
@output_option("Write the JSON document to this file too.", required=False)
@force_option
@json_option
def profile(
    artifact: Path,
    baseline: Path | None,
    device: str,
    threads: tuple[int, ...],
    output: Path | None,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure an exported file: size, load time, first run, latency, memory, operators; and against a baseline."""
    from edgecompress.artifacts import facts_path, golden_path
    from edgecompress.devices import device_named
    from edgecompress.files import write_json
    from edgecompress.profiling import measure
    from edgecompress.profiling.instruction_counts import PROFILE_KIND as COUNTED
    from edgecompress.profiling.profiles import PROFILE_KIND as TIMED
    from edgecompress.replacing import is_measured

    if output is not None:
        read = [file for file in (artifact, baseline, *given.values()) if isinstance(file, Path)]
        read += [beside(file) for file in read for beside in (facts_path, golden_path)]
        file_to_write(output, "profile", is_measured(TIMED, COUNTED), inputs=read, force=force)
    place, more = device_named(device, made(DeviceOptions, given)), threads[1:] if threads else None
    effort = made(Effort, given, **({"threads": threads[0]} if threads else {}))
    with showing_progress() as progress:
        found = measure(artifact, baseline, place, effort, threads=more, progress=progress)
    if output is not None:
        write_json(output, measured_document(found))
    if as_json:
        print_json(measured_document(found))
    else:
        print_measured(found, artifact, baseline)


def measured_document(found: Measured) -> dict[str, Any]:
    """One JSON document; ``layers`` are the time of each layer before and after, ``threads`` the same with others."""
    from edgecompress.profiling import layers_of

    document: dict[str, Any] = {"profile": found.profile.to_json()}
    if found.baseline is not None and found.comparison is not None:
        document |= {"baseline": found.baseline.to_json(), "comparison": found.comparison.to_json()}
        document["layers"] = [layer.to_json() for layer in layers_of(found)]
    return {**document, "threads": [other.to_json() for other in found.more]}


def print_measured(found: Measured, file: Path, baseline: Path | None = None) -> None:
    """Tables, then the verdicts in words; what a faster ``file`` cost stands with them."""
    from edgecompress.profiling import layers_of
    from edgecompress.profiling.comparisons import Comparison
    from edgecompress.reporting.wording import latency_clause

    files = told_apart(file, baseline) if baseline is not None else ()
    print_profiles([one for one in (found.profile, found.baseline) if one is not None], files)
    if found.comparison is not None and (layers := layers_of(found)):
        print_layers(layers)
    pairs = [found.comparison, *(other for other in found.more if isinstance(other, Comparison))]
    for pair in pairs:
        if pair is not None:
            say(f"against {files[1] if files else pair.baseline}: {latency_clause(pair)}")
            for role, sustained in getattr(pair, "sustained", {}).items():
                say(f"  under load, {role}: {sustained_text(sustained)}")
    if any(pair is not None and getattr(pair, "verdict", "") == "faster" for pair in pairs):
        say(f"  what that cost: {cost_in_outputs(file)}")


def cost_in_outputs(file: Path) -> str:
    """What a file's outputs lost, by the facts beside it: by compression, by conversion, or that it is not known."""
    from edgecompress.artifacts import Artifact
    from edgecompress.cli.exporting import distance
    from edgecompress.errors import FileError

    try:
        artifact = Artifact.load(file)
    except FileError:
        return f"not known: no facts of an export are beside {file.name}"
    if artifact.approximation is not None:
        return distance(artifact.approximation)
    if artifact.sqnr_db is None:
        return f"not known: {file.name} was never compared with PyTorch"
    return f"the file against PyTorch: SQNR {artifact.sqnr_db:.0f} dB"


def sustained_text(sustained: Any) -> str:
    """Whether times held, in words."""
    drift = sustained.drift
    what = "steady" if not drift.resolved else "got slower" if drift.value > 1 else "got faster"
    times = f"{drift.value:.2f} times as long in the last fifth as in the first ({drift.low:.2f} to {drift.high:.2f})"
    return f"{what}: {times}, {len(sustained.wall_ms)} windows"


def print_layers(layers: list[ComparedLayer]) -> None:
    """Each layer's time before and after, and which surely got slower."""
    from edgecompress.reporting.layer_tables import slower_layers

    rows = [
        (layer.name or "(all others)", layer.dense, layer.compressed, "slower" if layer.slower else "")
        for layer in layers
    ]
    title = "Time in each layer, ms, by the runtime's profiler less what that adds"
    print_table(title, ("layer", "before", "after", ""), rows)
    if slower := slower_layers(layers):
        say(slower)


def told_apart(first: Path, second: Path) -> tuple[str, str]:
    """Two paths by the shortest ends that differ; whole where they do not."""
    ours, theirs = first.resolve().parts, second.resolve().parts
    for count in range(1, min(len(ours), len(theirs)) + 1):
        if ours[-count:] != theirs[-count:]:
            return "/".join(ours[-count:]), "/".join(theirs[-count:])
    return str(first), str(second)


def print_profiles(profiles: list[Profile | InstructionProfile], files: tuple[str, ...] = ()) -> None:
    """One column for each profile, headed by ``files`` or by their names."""
    from edgecompress.reporting.wording import tokens_text

    measures, heads = [_measures(profile) for profile in profiles], files or [profile.file for profile in profiles]
    rows = [(name, *(measure.get(name) for measure in measures)) for name in measures[0]]
    device = profiles[0].device
    where = f"{device.provenance} on {device.name} ({device.processor or device.machine})"
    first = profiles[0]
    tokens = "" if first.length is None else f", {tokens_text(first.length, first.past)}"
    title = f"Profile, {where}, {profiles[0].threads} thread(s){tokens}"
    print_table(title, ("", *heads), rows)
    for head, profile in zip(heads, profiles, strict=True):
        for reason in getattr(profile, "unstable", ()):
            say(f"{head}: unstable, {reason}")


def _measures(profile: Profile | InstructionProfile) -> dict[str, str | int | None]:
    from edgecompress.profiling.instruction_counts import InstructionProfile
    from edgecompress.reporting.numbers import bytes_text

    stored = {
        "file": bytes_text(profile.size_bytes),
        "file, zipped": bytes_text(profile.zipped_bytes),
        "weights": "" if profile.weight_bytes is None else bytes_text(profile.weight_bytes),
        "parameters": profile.params,
        "MACs": profile.macs,
    }
    return {**stored, **(_counted(profile) if isinstance(profile, InstructionProfile) else _timed(profile))}


def _counted(profile: InstructionProfile) -> dict[str, str | int | None]:
    mix = {f"of it {name.replace('_', ' ')}": number for name, number in profile.counts.mix.items()}
    return {"instructions of one inference": profile.counts.least, **mix, "instructions to load": profile.counts.load}


def _timed(profile: Profile) -> dict[str, str | int | None]:
    from edgecompress.reporting.numbers import bytes_text

    latency = profile.latency.statistics
    wall, cpu = latency.wall, latency.cpu
    memory = {"peak memory": profile.peak_rss_bytes, "of it the runtime": profile.runtime_rss_bytes}
    return {
        "load, ms": None if profile.load_ms is None else f"{profile.load_ms:.2f}",
        "first run, ms": None if profile.first_run_ms is None else f"{profile.first_run_ms:.3f}",
        "wall p50, ms": f"{wall.p50:.3f}",
        "wall p90, ms": f"{wall.p90:.3f}",
        "wall p99, ms": f"{wall.p99:.3f}" if latency.p99(wall) is not None else None,
        "wall min, ms": f"{wall.min:.3f}",
        "wall stdev, ms": f"{wall.stdev:.3f}",
        "CPU p50, ms": f"{cpu.p50:.3f}" if cpu else None,
        "runs": latency.runs,
        **{name: None if size is None else bytes_text(size) for name, size in memory.items()},
    }


@click.command(cls=Command, epilog="Example: edgecompress compare dense.profile.json model.profile.json")
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--anyway", is_flag=True, help="Even if device, runtime, threads or provenance differ.")
@json_option
def compare(first: Path, second: Path, anyway: bool, as_json: bool) -> None:
    """Show two runs (folders or report.json) or two profiles side by side.

    They were measured at different times: for a speed-up with an interval use `profile A --baseline B`.
    """
    from edgecompress.reporting.comparing import (
        accuracy_difference,
        changes,
        differences,
        figures_of,
        refuse_different,
        side_by_side,
        time_ratios,
    )
    from edgecompress.reporting.wording import FIGURES, circumstance_text

    ours, theirs = figures_of(first), figures_of(second)
    if not anyway:
        refuse_different(ours, theirs)
    unlike, rows = differences(ours, theirs), side_by_side(ours, theirs)
    if as_json:
        scores = accuracy_difference(ours, theirs)
        ratios = {name: one and one.to_json() for name, one in time_ratios(ours, theirs).items()}
        print_json({"circumstances": [ours.circumstances, theirs.circumstances], "different": list(unlike),
                    "figures": rows, "time_ratios": ratios,
                    "accuracy_difference": scores.to_json() if scores else None})  # fmt: skip
        return
    words = changes(ours, theirs)
    names = {**FIGURES, "accuracy": theirs.metric.name if theirs.metric else "accuracy"}
    table = [(names.get(name, name), *pair, words[name]) for name, pair in rows.items()]
    print_table("Side by side", ("", *told_apart(first, second), "change"), table)
    for key, pair in unlike.items():
        say(f"different {key}: {circumstance_text(pair[0])} and {circumstance_text(pair[1])}")
    say("measured one after the other: for a speed-up with an interval use `edgecompress profile A --baseline B`")


@click.command(
    cls=Command, epilog="Example: edgecompress check out/resnet20/report.json --min-speedup 1.5 --max-acc-drop 1"
)
@click.argument("report", type=click.Path(path_type=Path))
@limit_options()
@json_option
def check(report: Path, as_json: bool, **given: float | None) -> int:
    """Hold a run (folder or report.json) or a profile against limits; exit code 1 if one is missed.

    Prints a Markdown table for the page of a pull request.
    """
    from edgecompress.reporting.checking import check_table, checks
    from edgecompress.reporting.comparing import figures_of

    limits = {name: limit for name, limit in given.items() if limit is not None}
    if not limits:
        raise click.UsageError("give at least one limit, as --min-speedup 1.5")
    figures = figures_of(report)
    rows: list[Check] = checks(figures, limits)
    if as_json:
        print_json({"met": all(row.met for row in rows), "checks": [row.to_json() for row in rows]})
    else:
        say(check_table(figures, rows))
    return 0 if all(row.met for row in rows) else 1
