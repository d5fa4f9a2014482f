"""``plan`` and ``compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.building import (
    is_typed,
    methods_from,
    recipe_from,
    scope_from,
    select_from,
    selector_from,
    storage_from,
    tuning_from,
    typed_options,
)
from edgecompress.cli.commands import Command
from edgecompress.cli.display import percent, print_before_after, print_json, print_table, say, showing_progress
from edgecompress.cli.options import (
    calibrate_option,
    core_options,
    force_option,
    json_option,
    line_options,
    output_option,
    seed_option,
    selection_options,
    trust_option,
)
from edgecompress.cli.writing import announce_folder, file_to_write
from edgecompress.settings import CALIBRATION_INPUTS, NO_RECIPE, USUAL_SELECTOR, Scope, Storage

if TYPE_CHECKING:
    from torch import nn

    from edgecompress.calibrating import Calibration
    from edgecompress.cli.building import Given
    from edgecompress.files import Json
    from edgecompress.models import Sample
    from edgecompress.plans import CompressionPlan
    from edgecompress.running.options import Options
    from edgecompress.selectors import Selector


@click.command(cls=Command, epilog="Example: edgecompress plan resnet20 --keep 0.4 --of macs -o plan.json")
@click.argument("model")
@selection_options
@calibrate_option
@seed_option
@core_options
@click.option("--why", is_flag=True, help="Also list what the other methods would have done, and why they lost.")
@trust_option
@output_option("Write the plan as JSON to this file.", required=False)
@force_option
@json_option
def plan(model: str, why: bool, trust: bool, output: Path | None, force: bool, as_json: bool, **given: Any) -> None:
    """Choose a method and ranks for every layer, and say why the others stay dense."""
    from edgecompress.planning import layer_costs
    from edgecompress.sources import resolve

    methods = methods_from(given)
    storage = storage_from(given, methods)
    scope = scope_from(given, methods if storage is None else ())
    if output is not None:
        _check_plan_file(output, model, force=force)
    by = storage or selector_from(given, given["select"] or USUAL_SELECTOR)
    sample = resolve(model, trust=trust)
    built = sample.model()
    made = _planned(sample, built, by, scope, given)
    if output is not None:
        made.save(output)
    if as_json:
        print_json(made.to_json())
    else:
        _print_plan(made, layer_costs(built, sample.inputs, made))
        if why:
            _print_rejected(made)


def _planned(sample: Sample, built: nn.Module, by: Storage | Selector, scope: Scope, given: Given) -> CompressionPlan:
    """The plan by a rank rule, or of a codec."""
    from edgecompress.planning import plan as make_plan
    from edgecompress.storing.planning import plan_storage

    if isinstance(by, Storage):
        layers = {"include": scope.include, "exclude": scope.exclude}
        return plan_storage(built, sample.inputs, by, **layers, name=sample.name)
    calibration = _calibration(sample, given["calibrate"], given["seed"] or 0) if by.weighs_losses else None
    with showing_progress() as progress:
        return make_plan(built, sample.inputs, by, scope, calibration=calibration, name=sample.name, progress=progress)


def _check_plan_file(output: Path, model: str, *, force: bool) -> None:
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


def _print_rejected(made: CompressionPlan) -> None:
    rows = [
        (r.layer, r.method, "x".join(map(str, r.ranks)) or None, r.error, r.loss,
         r.cost and r.cost.macs, r.cost and r.cost.params, r.why)
        for r in made.rejected
    ]  # fmt: skip
    header = ("layer", "instead", "ranks", "error", "loss", "MACs", "parameters", "why not")
    print_table("Not chosen, at about the same MACs", header, rows)


def _print_plan(made: CompressionPlan, layers: list[Json]) -> None:
    rows = [
        (
            layer["name"],
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


def sample_and_options(
    model: str, plan_file: Path | None, given: dict[str, Any], *, trust: bool, **more: Any
) -> tuple[Sample, Options]:
    """The model and the options of a run; a teacher is built first: the last model's files stay importable."""
    from edgecompress.running.options import Teacher
    from edgecompress.sources import presets, resolve

    preset = presets(model).get(given["preset"] or "", {}) if given["distill"] != 0 else {}
    named = given.pop("teacher") or preset.get("teacher")
    teacher = Teacher(named, resolve(named, trust=trust).model()) if named else None
    sample = resolve(model, trust=trust)
    return sample, options_from(sample, plan_file, given, teacher=teacher, **more)


def options_from(sample: Sample, plan_file: Path | None, given: Given, **more: Any) -> Options:
    """The options of a run, from the command line's values."""
    from edgecompress.running.options import Options

    given = with_preset(sample.name, given)
    loaded = None if plan_file is None else _given_plan(plan_file, given)
    methods = methods_from(given) if loaded is None else _codec_of(loaded)
    storage = storage_from(given, methods)
    selector = selector_from(given, select_from(given) if storage is None else USUAL_SELECTOR)
    tuning = tuning_from(sample, given, coded=storage is not None)
    return Options(
        selector,
        scope_from(given, () if storage else methods),
        given=loaded,
        calibrate=CALIBRATION_INPUTS if given["calibrate"] is None else given["calibrate"],
        asymmetric=not given["symmetric"],
        recipe=recipe_from(given),
        recipe_epochs=given["recipe_epochs"] or max(1, tuning.epochs),
        storage=storage,
        tuning=tuning,
        **more,
    )


def _given_plan(file: Path, given: Given) -> CompressionPlan:
    """A plan holds the choice: an option that would make another one is refused rather than ignored."""
    from edgecompress.plans import CompressionPlan

    for option in typed_options():
        if option.chooses:
            raise click.UsageError(f"--plan already holds the choice; drop {option.opts[0]}")
    loaded = CompressionPlan.load(file)
    if given["recipe"] != NO_RECIPE:
        raise click.UsageError(
            f"--plan already holds the ranks that --recipe {given['recipe']} would find; drop one of them"
        )
    return loaded


def _codec_of(made: CompressionPlan) -> tuple[str, ...]:
    """The codec that stores a plan's layers, if that is what it is for."""
    from edgecompress.codecs import CODECS

    found = {layer.method for layer in made.layers}
    codecs = tuple(sorted(found & set(CODECS)))
    if codecs and len(found) > 1:
        raise click.UsageError(f"the plan mixes {', '.join(sorted(found))}; {codecs[0]} goes without other methods")
    return codecs


def with_preset(name: str, given: Given) -> Given:
    """The options with those of the preset in place of all that were not typed."""
    from edgecompress.sources import presets

    preset, known = given.get("preset"), presets(name)
    if preset is None:
        return given
    if preset not in known:
        have = f"it has {', '.join(known)}" if known else "it has none"
        raise click.UsageError(f"{name}: no preset {preset!r}; {have}")
    methods = known[preset].get("method")
    if methods and is_typed("method") and list(given["method"]) != methods:
        raise click.UsageError(f"{name}: preset {preset!r} is for --method {methods[0]}")
    return {**given, **{name: _of_preset(value) for name, value in known[preset].items() if not is_typed(name)}}


def _of_preset(value: Any) -> Any:
    """As the command line gives it."""
    return tuple(value) if isinstance(value, list) else value


@click.command(cls=Command, epilog="Example: edgecompress compress resnet20 --keep 0.5 --epochs 10 -o small/")
@click.argument("model")
@line_options
@trust_option
@output_option("Folder for the compressed model; give it as MODEL afterwards.")
@force_option
@json_option
def compress(
    model: str, plan_file: Path | None, trust: bool, output: Path, force: bool, as_json: bool, **given: Any
) -> None:
    """Decompose and fine-tune a model; interrupted, the same command goes on."""
    from edgecompress.running import compress as compress_model

    sample, options = sample_and_options(model, plan_file, given, trust=trust)
    announce_folder(output)
    with showing_progress() as progress:
        made = compress_model(sample, output, options, progress=progress, force=force)
    if as_json:
        print_json({**made.to_json(), "output": str(output)})
    else:
        print_before_after(made)
        say(f"compressed model: {output}")
