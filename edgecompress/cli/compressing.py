"""``compress``."""

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
from edgecompress.cli.building import made as made_of
from edgecompress.cli.commands import Command
from edgecompress.cli.display import print_before_after, print_json, say, showing_progress, suggested
from edgecompress.cli.options import (
    device_option,
    force_option,
    json_option,
    line_options,
    output_option,
    target_option,
    tested_option,
    threads_option,
    trust_option,
    verbosity_options,
)
from edgecompress.cli.writing import announcing, telling_what_is_left
from edgecompress.settings import CALIBRATION_INPUTS, NO_RECIPE, USUAL_SELECTOR, DeviceOptions

if TYPE_CHECKING:
    from edgecompress.cli.building import Given
    from edgecompress.models import Sample
    from edgecompress.plans import CompressionPlan
    from edgecompress.running.options import Options


def sample_and_options(
    model: str, plan_file: Path | None, given: dict[str, Any], *, trust: bool, **more: Any
) -> tuple[Sample, Options]:
    """The model and the options of a run; teachers are built first: the last model's files stay importable."""
    from edgecompress.running.options import Teacher
    from edgecompress.sources import presets, resolve

    preset = presets(model).get(given["preset"] or "", {}) if given["distill"] != 0 else {}
    names = given.pop("teacher") or _of_preset(preset.get("teacher", []))
    teacher = Teacher(names, tuple(resolve(name, trust=trust).model() for name in names)) if names else None
    sample = resolve(model, trust=trust).scored_on(given.pop("tested"))
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
        asymmetric=None if given["symmetric"] is None else not given["symmetric"],
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
@tested_option
@target_option
@device_option
@threads_option
@verbosity_options
@trust_option
@output_option("Folder for the compressed model; give it as MODEL afterwards.")
@force_option
@json_option
def compress(
    model: str,
    plan_file: Path | None,
    targets: tuple[str, ...],
    device: str,
    threads: tuple[int, ...],
    quiet: bool,
    verbose: bool,
    trust: bool,
    output: Path,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Decompose and fine-tune a model; interrupted, the same command goes on."""
    from edgecompress.reporting.wording import lost_clause
    from edgecompress.running import compress as compress_model

    place = {"targets": targets, "device": device, "place": made_of(DeviceOptions, given), "threads": threads}
    sample, options = sample_and_options(model, plan_file, given, trust=trust, **place)
    shows = showing_progress(quiet=quiet, verbose=verbose)
    with telling_what_is_left(output), shows as shown, announcing(output, shown) as progress:
        made = compress_model(sample, output, options, progress=progress, force=force)
    advice = suggested(made, output)
    if as_json:
        print_json({**made.to_json(), "suggestion": advice or None, "output": str(output)})
    else:
        print_before_after(made)
        for words in filter(None, (lost_clause(made.outputs), advice)):
            say(f"{made.model}: {words}")
        say(f"compressed model: {output}")
