"""``plan``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.building import methods_from, place_from, scope_from, selector_from, storage_from, usual_selector
from edgecompress.cli.commands import Command
from edgecompress.cli.display import complain, print_json, print_table, say, showing_progress
from edgecompress.cli.options import (
    calibrate_option,
    core_options,
    device_option,
    force_option,
    json_option,
    output_option,
    pareto_option,
    seed_option,
    selection_options,
    target_option,
    threads_option,
    trust_option,
)
from edgecompress.cli.writing import file_to_write
from edgecompress.settings import CALIBRATION_INPUTS, Scope, Storage

if TYPE_CHECKING:
    from torch import nn

    from edgecompress.calibrating import Calibration
    from edgecompress.cli.building import Given
    from edgecompress.files import Json
    from edgecompress.models import Sample
    from edgecompress.plans import CompressionPlan
    from edgecompress.selectors import Selector


@click.command(cls=Command, epilog="Example: edgecompress plan resnet20 --keep 0.4 --of macs -o plan.json")
@click.argument("model")
@selection_options
@calibrate_option
@seed_option
@core_options
@target_option
@device_option
@threads_option
@click.option("--why", is_flag=True, help="Also list what the other methods would have done, and why they lost.")
@pareto_option
@trust_option
@output_option("Write the plan as JSON to this file.", required=False)
@force_option
@json_option
def plan(
    model: str, why: bool, pareto: int, trust: bool, output: Path | None, force: bool, as_json: bool, **given: Any
) -> None:
    """Choose a method and ranks for every layer, and say why the others stay dense."""
    from edgecompress.planning.layer_costs import layer_costs
    from edgecompress.planning.outlook import warnings_of
    from edgecompress.sources import resolve

    methods = methods_from(given)
    storage = storage_from(given, methods)
    scope = scope_from(given, methods if storage is None else ())
    for file in [] if output is None else [output, *_others(output, pareto)]:
        check_plan_file(file, model, force=force)
    by = storage or selector_from(given, given["select"] or usual_selector(given))
    _check_pareto(by, pareto, output)
    sample = resolve(model, trust=trust)
    built = sample.model()
    made = planned(sample, built, by, scope, given)
    if output is not None:
        made.save(output)
        _save_others(made, pareto, output)
    for warning in warnings_of(made):
        complain(f"warning: {warning}")
    if as_json:
        print_json(made.to_json())
    else:
        print_plan(made, layers := layer_costs(built, sample.inputs, made))
        if why:
            _print_rejected(made, layers)


def _others(output: Path, count: int) -> list[Path]:
    """The files of the other plans: ``plan.1.json`` beside ``plan.json``."""
    return [output.with_name(f"{output.stem}.{number}{output.suffix}") for number in range(1, count + 1)]


def _save_others(made: CompressionPlan, count: int, output: Path) -> None:
    """Plans of the front beside the chosen one, from the least loss to the fastest."""
    from edgecompress.timing.fronts import front_of

    files, found = _others(output, count), front_of(made, count) if count else []
    for file in files[len(found) :]:
        file.unlink(missing_ok=True)  # of another front
    for (_, other), file in zip(found, files, strict=False):
        other.save(file)
        latency = (other.measured or {})["latency"]
        low, high = latency["ci95"]
        complain(f"{file}: {latency['speedup']:.2f}x ({low:.2f} to {high:.2f}) at an expected loss of "
                 f"{latency['loss']:.3g}, by {latency['rule']}")  # fmt: skip


def _check_pareto(by: Storage | Selector, count: int, output: Path | None) -> None:
    """Refuse ``--pareto`` where no plans are measured, or there is no place for them."""
    from edgecompress.timing.fronts import refuse_without_times

    if count:
        refuse_without_times(None if isinstance(by, Storage) else by, None)
    if count and output is None:
        raise click.UsageError("--pareto writes plan.1.json, plan.2.json beside plan.json: give -o plan.json")


def planned(sample: Sample, built: nn.Module, by: Storage | Selector, scope: Scope, given: Given) -> CompressionPlan:
    """The plan by a rank rule, or of a codec."""
    from edgecompress.planning import survey
    from edgecompress.running.budgeting import Planning, plan_within
    from edgecompress.storing.planning import plan_storage

    if isinstance(by, Storage):
        layers = {"include": scope.include, "exclude": scope.exclude}
        return plan_storage(built, sample.inputs, by, **layers, name=sample.name)
    seen = survey(built, sample.inputs, scope)
    calibration = _calibration(sample, given["calibrate"], given["seed"] or 0) if by.weighs_losses else None
    with showing_progress() as progress:
        wanted = Planning(seen, scope, sample, place_from(given), calibration, progress=progress)
        return plan_within(wanted, by)


def check_plan_file(output: Path, model: str, *, force: bool) -> None:
    """Prove that a plan may be written there, and make its folder."""
    from edgecompress.errors import FileError
    from edgecompress.plans import KIND
    from edgecompress.replacing import is_kind
    from edgecompress.sources import source_of
    from edgecompress.sources.compressed_folder import KIND as MODEL_KIND
    from edgecompress.sources.compressed_folder import MODEL_FILE, PLAN_FILE

    if not force and output.name == PLAN_FILE and is_kind(MODEL_KIND)(output.with_name(MODEL_FILE)):
        raise FileError(f"{output}: belongs to the compressed model there; choose another name with -o")
    file_to_write(output, "plan", is_kind(KIND), inputs=source_of(model).files(model), force=force)


def _calibration(sample: Sample, count: int | None, seed: int) -> Calibration | None:
    """Calibration inputs; without data there are none, which is an error only where they were asked for by name."""
    from edgecompress.calibrating import calibration_of
    from edgecompress.errors import DataError

    if count == 0 or (sample.splits is None and count is None):
        return None
    try:
        return calibration_of(sample, CALIBRATION_INPUTS if count is None else count, seed)
    except DataError as error:
        if count is not None:
            raise
        click.echo(f"planned by the weights alone: {error}", err=True)
        return None


def _print_rejected(made: CompressionPlan, layers: list[Json]) -> None:
    planned = {layer["name"]: layer["compressed"]["macs"] for layer in layers}
    rows = [
        (r.layer, r.method, "x".join(map(str, r.ranks)) or None, r.error, r.loss, r.cost and r.cost.macs,
         _times(r.cost.macs if r.cost else None, planned.get(r.layer)), r.cost and r.cost.params, r.why)
        for r in made.rejected
    ]  # fmt: skip
    header = ("layer", "instead", "ranks", "error", "loss", "MACs", "of the planned", "parameters", "why not")
    print_table("Not chosen, each at its MACs nearest to the planned ones (of a dense layer: to half)", header, rows)


def _measured_sentences(made: CompressionPlan) -> Iterator[str]:
    """What was measured of the plan."""
    found = made.measured or {}
    if latency := found.get("latency"):
        low, high = latency["ci95"]
        busy = f"; the machine was busy ({latency['load']:.1f} processes wanted a processor)" if latency["busy"] else ""
        yield (
            f"{latency['speedup']:.2f}x as fast as the dense file (95 % interval {low:.2f} to {high:.2f}, predicted "
            f"{latency['predicted']:.2f}), {_amount(latency)}: by {latency['rule']}, measured whole on "
            f"{latency['device']} ({latency['machine']}), {latency['runtime']}, {latency['threads']} thread(s){busy}"
        )
    if (int8 := found.get("int8")) and "speedup" in int8:
        low, high = int8["ci95"]
        advice = "as fast as the plan, so rather that" if int8["as_fast"] else "slower than the plan"
        yield (
            f"the dense model in int8 instead: {int8['speedup']:.2f}x as fast (95 % interval {low:.2f} to {high:.2f}), "
            f"{int8['size_bytes'] / 1e6:.3g} MB: {advice}; its outputs were not looked at"
        )
    if score := found.get("score"):
        yield (f"score on {score['split']} data {score['dense']:.2f} -> {score['compressed']:.2f} before fine-tuning")


def _amount(latency: Json) -> str:
    """Before and after."""
    dense, unit = latency["dense"], latency["unit"]
    if unit == "instructions":
        return f"{dense:,.0f} -> {dense / latency['speedup']:,.0f} instructions"
    return f"{dense / 1e6:.3f} -> {dense / latency['speedup'] / 1e6:.3f} ms"


def _times(macs: int | None, planned: int | None) -> str | None:
    """How many times the planned MACs."""
    return f"{macs / planned:.2g}x" if macs and planned else None


def print_plan(made: CompressionPlan, layers: list[Json]) -> None:
    """Every layer in a table, and what the plan keeps."""
    from edgecompress.reporting.numbers import percent
    from edgecompress.reporting.wording import layer_label

    rows = [
        (
            layer_label(layer["name"]),
            layer["kind"],
            layer["method"] or "dense",
            "x".join(map(str, layer["ranks"] or ())) or None,
            layer["error"],
            layer["dense"]["macs"],
            layer["compressed"]["macs"],
            layer["reason"],
        )
        for layer in layers
    ]
    header = ("layer", "kind", "method", "ranks", "error", "MACs dense", "MACs planned", "why dense, or note")
    print_table(f"Plan for {made.model}", header, rows)
    assert made.dense is not None
    assert made.compressed is not None
    before, after = made.dense, made.compressed
    say(
        f"MACs {before.macs:,} -> {after.macs:,} ({percent(after.macs, before.macs)} kept), "
        f"parameters {before.params:,} -> {after.params:,} ({percent(after.params, before.params)} kept)"
    )
    for sentence in _measured_sentences(made):
        say(sentence)
