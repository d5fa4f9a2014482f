"""``run`` and ``report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.building import fields_given, made
from edgecompress.cli.commands import Command
from edgecompress.cli.compressing import sample_and_options
from edgecompress.cli.configuring import FILE as CONFIG_FILE
from edgecompress.cli.configuring import config_option, typed
from edgecompress.cli.configuring import written as configuration
from edgecompress.cli.display import print_before_after, print_json, print_table, say, showing_progress, suggested
from edgecompress.cli.fields import options_of
from edgecompress.cli.gating import gate_options, held_against
from edgecompress.cli.options import (
    FILES,
    device_option,
    force_option,
    json_option,
    line_options,
    log_option,
    output_option,
    pareto_option,
    platform_option,
    seconds_option,
    target_option,
    tested_option,
    threads_option,
    trust_option,
    verbosity_options,
)
from edgecompress.cli.writing import announcing, telling_what_is_left
from edgecompress.files import write_text
from edgecompress.settings import DeviceOptions, Effort, ExportOptions

if TYPE_CHECKING:
    from edgecompress.reporting.document import Report
    from edgecompress.reporting.entries import FileEntry


@click.command(
    cls=Command, epilog="Example: edgecompress run lenet5 --keep 0.25 --of macs --target onnx --epochs 3 -o out/lenet5"
)
@click.argument("model")
@config_option
@line_options
@tested_option
@target_option
@platform_option
@options_of(ExportOptions, "precision", "keep_float", "kv_cache", group=FILES)
@device_option
@threads_option
@seconds_option
@pareto_option
@gate_options
@log_option
@verbosity_options
@trust_option
@output_option("Folder for everything the run writes.")
@force_option
@json_option
def run(
    model: str,
    plan_file: Path | None,
    targets: tuple[str, ...],
    device: str,
    threads: tuple[int, ...],
    platforms: tuple[str, ...],
    pareto: int,
    log: str | None,
    quiet: bool,
    verbose: bool,
    trust: bool,
    output: Path,
    force: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Do all of it: plan, decompose, fine-tune, export, verify, profile, report, bundle.

    A second run with the same arguments redoes nothing; a killed one goes on from the last finished stage. Limits are
    held against the result: exit code 1 if one is missed.
    """
    from edgecompress.running import run as run_model
    from edgecompress.running.tracking import tracker_of

    tracker = tracker_of(log) if log else None
    measuring = {key: value for key, value in fields_given(Effort, given).items() if key == "seconds"}
    more = {"device": device, "place": made(DeviceOptions, given), "threads": threads, "platforms": _unique(platforms)}
    more |= {
        "quantize": given["quantize"] or "fp32",
        "keep_float": given["keep_float"],
        "command": typed(),
        "kv_cache": given["kv_cache"],
        "pareto": pareto,
    }
    wanted, shows = _unique(targets), showing_progress(quiet=quiet, verbose=verbose)
    sample, options = sample_and_options(model, plan_file, given, trust=trust, targets=wanted, **more, **measuring)
    with telling_what_is_left(output), shows as shown, announcing(output, shown) as progress:
        report = run_model(sample, output, options, progress=progress, force=force)
    _keep_configuration(output / CONFIG_FILE)
    if tracker is not None:
        tracker(report, output)
    gates, table = held_against(report, output, given)
    if as_json:
        checked = {"checks": [row.to_json() for row in gates]} if gates else {}
        suggestion = {"suggestion": suggested(report, output) or None}
        print_json({**report.summary(), **suggestion, **checked, "output": str(output)})
    else:
        print_run(report, output)
        if table:
            say(table)
    return 0 if all(row.met for row in gates) else 1


def _keep_configuration(file: Path) -> None:
    """The options in the run's folder; a run with the same ones leaves the file as it is."""
    text = configuration()
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        write_text(file, text)


def print_run(report: Report, output: Path) -> None:
    """Before and after, files, the verdict in one sentence, and paths."""
    from edgecompress.reporting.numbers import capitalized
    from edgecompress.reporting.recommending import recommendation
    from edgecompress.reporting.wording import size_sentence, summary_sentence

    print_before_after(report)
    _print_files(report)
    say(summary_sentence(report))
    answer = recommendation(report)
    say(f"{capitalized(answer.answer)}: {answer.reason}.")
    if advice := suggested(report, output):
        say(advice)
    if answer.command:
        say(f"next:   cd {shlex.quote(str(output))} && {answer.command}")
    paths = {
        "model": report.files.compressed.path if report.files.compressed else "",
        "report": "report.html",
        "plan": "plan.json",
    }
    for what, path in paths.items():
        say(f"{what + ':':8}{output / path}")
    for other in sorted(report.front.plans if report.front else (), key=lambda one: -one.kept):
        if other.folder:
            say(f"pareto: {output / other.folder}: {1 / other.kept:.2f}x at an expected loss of {other.loss:.3g}")
    for one in report.bundles:
        say(f"bundle: {(output / one.manifest).parent}")
        say(size_sentence(one))


def _print_files(report: Report) -> None:
    """The exported files, what is to know of them, and what became none."""
    from edgecompress.reporting.numbers import bytes_text
    from edgecompress.reporting.provenance_tables import by_notice

    rows = [
        (file.role, file.path, bytes_text(file.size_bytes), bytes_text(file.zipped_bytes), *_parity(file))
        for file in report.artifacts
    ]
    print_table("Exported files", ("", "file", "size", "zipped", "max error", "SQNR"), rows)
    for files, notice in by_notice(report.artifacts):
        say(f"{files}: {notice}")
    for failure in report.failed:
        click.echo(f"error: {failure.role}: {failure.reason}", err=True)


def _unique(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _parity(file: FileEntry) -> tuple[str, str]:
    if file.max_abs_error is None:
        return "not run here", ""
    return f"{file.max_abs_error:.1e}", f"{file.sqnr_db:.0f} dB"


@click.command(cls=Command, epilog="Example: edgecompress report out/lenet5")
@click.argument("folder", type=click.Path(path_type=Path))
@force_option
@json_option
def report(folder: Path, force: bool, as_json: bool) -> None:
    """Write a run's report.html again from its report.json, and print the verdict."""
    from edgecompress.replacing import check_replaceable, is_kind, is_report_page
    from edgecompress.reporting import HTML_NAME, JSON_NAME, KIND, MARKDOWN_NAME, read_report, write_report
    from edgecompress.reporting.wording import summary_sentence

    found = read_report(folder)
    ours = {JSON_NAME: is_kind(KIND), HTML_NAME: is_report_page, MARKDOWN_NAME: is_report_page}
    for name, is_ours in ours.items():
        check_replaceable(folder / name, "report", is_ours, force=force)
    html, _, _ = write_report(found, folder)
    if as_json:
        print_json(found.to_json())
    else:
        say(summary_sentence(found))
        say(f"report: {html}")
