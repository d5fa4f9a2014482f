"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from edgecompress.cli.fields import Command, option, options_of, together
from edgecompress.cli.types import DeviceName, Multiple, OutputPath, TableChoice
from edgecompress.settings import (
    CALIBRATION_INPUTS,
    NO_RECIPE,
    USUAL_DEVICE,
    USUAL_PLATFORM,
    USUAL_SELECTOR,
    USUAL_TARGET,
    DeviceOptions,
    Effort,
    FineTuning,
    Scope,
    Storage,
)

EVERY_METHOD = AUTO_MULTIPLE = "auto"
SELECTION, TRAINING, CODES = "What to compress", "Training", "Storing as codes, with a codec as --method"
FILES, MEASURING = "Exported files", "Measuring"


def _every_method() -> str:
    from edgecompress.decompositions import AUTO

    return f"for each layer the best of {', '.join(AUTO)}"


def _no_recipe() -> str:
    return "plan, decompose with calibration, fine-tune"


json_option = option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
trust_option = option(
    "--trust", is_flag=True, help="Run the code that a compressed-model folder says it was made from."
)
force_option = option(
    "--force", is_flag=True, help="Replace what is there, though it is another model's or no file of this kind."
)


verbosity_options = together(
    option("-q", "--quiet", is_flag=True, help="No progress: errors and the result alone."),
    option("-v", "--verbose", is_flag=True, help="Progress as lines, one a second, with every detail."),
)
log_option = option(
    "--log",
    metavar="KIND[:PLACE]",
    basic=False,
    help="Log options, scores and figures when done: tensorboard:FOLDER, or mlflow[:ADDRESS]. [nowhere]",
)


def output_option(help_text: str, *, required: bool = True) -> Callable[[Command], Command]:
    """``-o`` with a help text of the command's own."""
    return option("-o", "--output", required=required, type=OutputPath(), help=help_text)


target_option = option(
    "--target",
    "targets",
    multiple=True,
    type=TableChoice("edgecompress.targets:TARGETS"),
    default=(USUAL_TARGET,),
    group=FILES,
    help=f"Export format; repeatable. [{USUAL_TARGET}]",
)
tested_option = option(
    "--score-items",
    "tested",
    type=click.IntRange(1, 1_000_000_000),
    metavar="N",
    group=FILES,
    basic=False,
    help="Score models and files on so many items of the test split, at even distances, and between epochs of the "
    "validation split. [all]",
)
platform_option = option(
    "--platform",
    "platforms",
    multiple=True,
    type=TableChoice("edgecompress.platforms:PLATFORMS"),
    default=(USUAL_PLATFORM,),
    group=FILES,
    basic=False,
    help=f"What the bundle is for; repeatable. [{USUAL_PLATFORM}]",
)
device_option = together(
    option(
        "--device",
        type=DeviceName(),
        default=USUAL_DEVICE,
        group=MEASURING,
        help=f"Where to measure (see `list devices`). [{USUAL_DEVICE}]",
    ),
    options_of(DeviceOptions, group=MEASURING),
)
threads_option = option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, 1024),
    metavar="N",
    group=MEASURING,
    basic=False,
    help="Threads of the runtime; repeatable. [1, then all processors]",
)
pareto_option = option(
    "--pareto",
    type=click.IntRange(0, 99),
    default=0,
    metavar="N",
    group=SELECTION,
    basic=False,
    help="With a limit on latency: keep N other plans that none measured beats in time and loss. [0]",
)
seconds_option = options_of(Effort, "seconds", group=MEASURING)

select_option = option(
    "--select",
    type=TableChoice("edgecompress.selectors:SELECTORS"),
    table="edgecompress.selectors:SELECTORS",
    group=SELECTION,
    chooses=True,
    codecs=False,
    help=f"Rule that chooses ranks (see `list selectors`). [{USUAL_SELECTOR}; a recipe may have another]",
)
recipe_option = option(
    "--recipe",
    type=TableChoice("edgecompress.recipes:RECIPES", first={NO_RECIPE: _no_recipe}, former={"plain": NO_RECIPE}),
    table="edgecompress.recipes:RECIPES",
    default=NO_RECIPE,
    group=SELECTION,
    codecs=False,
    help="How ranks and starting weights are found: by plan alone, or by training (see `list recipes`). [none]",
)
method_type = TableChoice(
    "edgecompress.decompositions:DECOMPOSITIONS", "edgecompress.codecs:CODECS", first={EVERY_METHOD: _every_method}
)
selection_options = together(
    select_option,
    options_of(
        Scope,
        group=SELECTION,
        methods={"type": method_type, "metavar": None},
        multiple={"type": Multiple(1, 4_096), "metavar": "N|auto"},
    ),
)
core_options = options_of(Storage, group=CODES, which=lambda info: info.chooses)
calibrate_option = option(
    "--calibrate",
    type=click.IntRange(0, 1_000_000),
    metavar="N",
    group=SELECTION,
    codecs=False,
    help="Unlabelled training inputs that judge candidates and fit the factors; 0: by the weights alone. "
    f"[{CALIBRATION_INPUTS}]",
)
seed_option = options_of(FineTuning, "seed", group=SELECTION)
training_options = together(
    options_of(FineTuning, group=TRAINING),
    option(
        "--teacher",
        metavar="MODEL",
        multiple=True,
        group=TRAINING,
        basic=False,
        help="What --distill learns from, such as a larger model; of several, the mean. [the dense model]",
    ),
    option(
        "--symmetric/--asymmetric",
        default=None,
        group=TRAINING,
        basic=False,
        codecs=False,
        help="Fit each layer on the dense model's inputs, or on the compressed one's. [the nearer on inputs held back]",
    ),
    option(
        "--recipe-epochs",
        type=click.IntRange(1, 100_000),
        metavar="N",
        group=TRAINING,
        basic=False,
        help="Epochs of the recipe's own training. [as --epochs]",
    ),
)
plan_option = option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    group=SELECTION,
    help="Use this plan instead of making one (--keep and the like are then refused).",
)
preset_option = option(
    "--preset", group=SELECTION, help="Settings that come with a sample, as smallest; yours go first."
)
line_options = together(
    selection_options,
    recipe_option,
    preset_option,
    plan_option,
    calibrate_option,
    training_options,
    options_of(Storage, group=CODES),
)
