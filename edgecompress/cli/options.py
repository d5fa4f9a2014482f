"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from edgecompress.platforms import PLATFORMS

if TYPE_CHECKING:
    from edgecompress.finetuning import FineTuning
    from edgecompress.models import Sample
    from edgecompress.recipes.base import Recipe
    from edgecompress.selectors import Selector
    from edgecompress.settings import Storage

Command = TypeVar("Command", bound=Callable[..., Any])

CORE = ("rank", "order", "mix_axes", "pad")
"""Options that a codec's plan depends on."""
STORAGE = {name: name for name in (*CORE, "start", "levels", "core_levels", "bias_levels", "rate", "damp")}
STORAGE |= {"round_epochs": "epochs", "round_lr": "lr"}
"""The options of a codec, and the fields of ``Storage`` they fill."""
FOREIGN = ("select", "energy", "beta", "multiple", "calibrate", "symmetric", "recipe", "stages", "feature", "ema")
"""Options that a codec would not look at."""

# The tables themselves import torch; a test keeps these names equal to their keys.
METHODS = ("svd", "spatial_svd", "tucker2", "hierarchical_tucker2", "tensor_train", "cp3", "cp4")
SELECTORS = ("budget", "energy", "vbmf", "continuous")
CODECS = ("ada_tucker", "scada_tucker")
RECIPES = ("plain", "orthogonal", "continuous", "ordered")
TARGETS = ("onnx", "ort", "litert", "executorch", "openvino", "ncnn", "coreml")
QUANTIZED = ("fp16", "int8")
EVERY_METHOD = "auto"


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse nan and inf, which pass every comparison of a range or none."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class Odd(click.IntRange):
    """An odd whole number in a range: levels around zero."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse even numbers."""
        number = super().convert(value, param, ctx)
        if number % 2 == 0:
            self.fail(f"{number} is even; levels lie symmetrically around zero, so take {number - 1}.", param, ctx)
        return number


class OutputPath(click.Path):
    """Where to write: a name, not nothing and not standard output."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, resolve_path=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty name, which would be the current folder, and a dash."""
        if not str(value).strip():
            self.fail("is empty; give a name, or . for the current folder.", param, ctx)
        if str(value) == "-":
            self.fail("- is no name; --json prints to standard output.", param, ctx)
        return super().convert(value, param, ctx)


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
trust_option = click.option(
    "--trust", is_flag=True, help="Run the code that a compressed-model folder says it was made from."
)
device_option = click.option(
    "--device",
    default="local",
    show_default=True,
    help="Where to measure: local, ssh:user@host[:port], adb:SERIAL, emulated:cortex-a76 (counts instructions).",
)
place_options = (
    click.option("--remote-python", metavar="PATH", help="ssh, adb: the interpreter there, by its whole path."),
    click.option("--identity", type=click.Path(path_type=Path), help="ssh: the private key to use."),
    click.option("--known-hosts", type=click.Path(path_type=Path), help="ssh: the file with the board's key."),
    click.option("--python-bundle", type=click.Path(path_type=Path), help="adb: a folder with a Python."),
    click.option(
        "--runner", type=click.Path(path_type=Path), help="adb: benchmark_model, onnxruntime_perf_test ... for it."
    ),
)
threads_option = click.option(
    "--threads",
    multiple=True,
    type=click.IntRange(1, 1024),
    help="Threads of the runtime; repeatable. [1, then all processors]",
)
seconds_option = click.option(
    "--seconds", type=Number(0, 3600), default=2.0, show_default=True, help="Measure at least so long a model."
)
target_option = click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(TARGETS),
    default=("onnx",),
    help="Export format; repeatable.",
)
platform_option = click.option(
    "--platform", type=click.Choice(tuple(PLATFORMS)), default="pi", show_default=True, help="What the bundle is for."
)


def output_option(help_text: str, *, required: bool = True) -> Callable[[Command], Command]:
    """``-o`` with a help text of the command's own."""
    return click.option("-o", "--output", required=required, type=OutputPath(), help=help_text)


force_option = click.option(
    "--force", is_flag=True, help="Replace what is there, though it is another model's or no file of this kind."
)


def together(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Several decorators as one, first on top."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


selection_options = together(
    click.option("--keep", type=Number(0, 1, min_open=True), help="Fraction of the dense cost to keep. [0.5]"),
    click.option(
        "--of", type=click.Choice(["macs", "params", "bytes"]), default="macs", show_default=True, help="Which cost."
    ),
    click.option(
        "--select",
        type=click.Choice(SELECTORS),
        default="budget",
        show_default=True,
        help="Rank rule. With --recipe orthogonal and no --keep: vbmf.",
    ),
    click.option("--energy", type=Number(0, 1, min_open=True, max_open=True), help="With --select energy. [0.9]"),
    click.option(
        "--method",
        "methods",
        multiple=True,
        type=click.Choice([EVERY_METHOD, *METHODS, *CODECS]),
        default=(EVERY_METHOD,),
        help="Decomposition; repeatable. auto: the best of svd, spatial_svd, tucker2, hierarchical_tucker2, cp3. "
        "Or a codec, which stores weights in few bytes and leaves MACs as they are. [auto]",
    ),
    click.option(
        "--include", multiple=True, help="Only layers whose name matches, as in a shell: 'layer1.*'; repeatable."
    ),
    click.option("--exclude", multiple=True, help="Not layers whose name matches; repeatable."),
    click.option(
        "--multiple", type=click.IntRange(1, 4096), default=8, show_default=True, help="Ranks are multiples of this."
    ),
)

calibration_options = together(
    click.option(
        "--calibrate",
        type=click.IntRange(0, 1_000_000),
        default=1024,
        show_default=True,
        help="Unlabelled training inputs that judge candidates and fit the factors; 0: by the weights alone.",
    ),
    click.option("--seed", type=click.IntRange(0, 1_000_000_000), default=0, show_default=True),
)

training_options = together(
    calibration_options,
    click.option(
        "--symmetric", is_flag=True, help="Fit each layer on the dense model's inputs, not on the compressed one's."
    ),
    click.option(
        "--epochs", type=click.IntRange(0, 100_000), help="Fine-tuning epochs; 0: none. [3, or 0 without data]"
    ),
    click.option("--optimizer", type=click.Choice(["sgd", "adam"]), help="[sgd; adam with a codec]"),
    click.option(
        "--lr", type=Number(0, min_open=True), help="Peak learning rate. [0.01 sgd, 0.001 adam, 0.02 with a codec]"
    ),
    click.option("--batch-size", type=click.IntRange(1, 1_000_000), default=128, show_default=True),
    click.option(
        "--distill",
        type=Number(0, 1),
        help="Share of the loss that follows the dense model's logits. [0.7; 0 with a loss of your own]",
    ),
    click.option(
        "--temperature",
        type=Number(0, min_open=True),
        default=4.0,
        show_default=True,
        help="Softens both outputs for --distill; 1: as they are.",
    ),
    click.option(
        "--teacher", metavar="MODEL", help="What --distill learns from, such as a larger model. [the dense model]"
    ),
    click.option("--weight-decay", type=Number(0), help="L2 penalty of the weights. [0.0001; 0 with a codec]"),
    click.option("--bf16", is_flag=True, help="Fine-tune in bfloat16 autocast (faster where the CPU has it)."),
    click.option(
        "--schedule",
        type=click.Choice(["onecycle", "cosine", "constant"]),
        default="onecycle",
        show_default=True,
        help="Learning rate over all steps.",
    ),
    click.option(
        "--warm-up", type=Number(0, 1), default=0.3, show_default=True, help="Share of the steps up to the peak rate."
    ),
    click.option(
        "--feature",
        type=Number(0),
        default=0.0,
        show_default=True,
        help="Weight of the distance of the layers' outputs and weights to the dense model's.",
    ),
    click.option(
        "--ema",
        type=Number(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Decay of averaged weights: 0.999.",
    ),
    click.option(
        "--smoothing", type=Number(0, 1), default=0.0, show_default=True, help="Label smoothing: 0.1 is usual."
    ),
    click.option("--mixup", type=Number(0), default=0.0, show_default=True, help="Alpha of mixup: 0.2 is usual."),
    click.option(
        "--cutout", type=click.IntRange(0), default=0, show_default=True, help="Pixels of a blanked square's side."
    ),
    click.option(
        "--accumulate",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Parts a batch is run in, for less memory; the same gradient.",
    ),
    click.option(
        "--stages",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Decompose the layers in so many portions, with fine-tuning after each.",
    ),
)

core_options = together(
    click.option(
        "--rank", type=click.IntRange(1, 512), help="With a codec: edge of the core. [as --keep allows: 0.02]"
    ),
    click.option("--order", type=click.IntRange(3, 5), help="With a codec: axes a weight is reshaped to. [3]"),
    click.option("--mix-axes", is_flag=True, help="With a codec: let those mix the weight's own (taps, channels)."),
    click.option("--pad", is_flag=True, help="With a codec: pad weights of awkward sizes, as primes, with zeros."),
)

storage_options = together(
    core_options,
    click.option("--preset", help="With a codec: settings that come with the sample, as smallest; yours go first."),
    click.option("--start", type=click.Choice(["scratch", "dense"]), help="With a codec: first factors. [scratch]"),
    click.option("--levels", type=Odd(3, 255), help="With a codec: values a factor's numbers may take; odd. [15]"),
    click.option("--core-levels", type=Odd(3, 255), help="With a codec: the same of the core. [as --levels]"),
    click.option("--bias-levels", type=Odd(3, 255), help="With a codec: the same of biases. [biases are dropped]"),
    click.option("--rate", type=Number(0), help="With a codec: weight of the codes' kilobytes in the loss. [0.1]"),
    click.option(
        "--damp", type=Number(0), help="With a codec: pull of numbers towards their levels at the end. [0.0002]"
    ),
    click.option("--round-epochs", type=click.IntRange(1, 100_000), help="With a codec: epochs with rounding. [10]"),
    click.option("--round-lr", type=Number(0, min_open=True), help="With a codec: their peak learning rate. [0.008]"),
)

pick_option = click.option(
    "--pick",
    type=click.Choice(["best", "last"]),
    help="Epoch to keep. [best by validation score; last where the dense weights have seen that split]",
)

recipe_options = together(
    pick_option,
    click.option(
        "--recipe",
        type=click.Choice(RECIPES),
        default="plain",
        show_default=True,
        help="How ranks and starting weights are found: by plan alone, or by training (see `list recipes`).",
    ),
    click.option(
        "--recipe-epochs", type=click.IntRange(1, 100_000), help="Epochs of the recipe's own training. [as --epochs]"
    ),
    click.option("--penalty", type=Number(0), help="With --recipe orthogonal: weight of the penalty."),
    click.option("--lasso", type=Number(0), help="With --recipe ordered: weight of the group lasso."),
    click.option("--beta", type=Number(0), help="With --select or --recipe continuous: higher for lower ranks. [0.8]"),
)


def selector_from(
    select: str,
    keep: float | None,
    of: Literal["macs", "params", "bytes"],
    energy: float | None,
    beta: float | None = None,
) -> Selector:
    """The selector with its options; refuses an option that belongs to another one."""
    from edgecompress.selectors import Budget, Continuous, Energy, Vbmf

    if keep is not None and select != "budget":
        instead = {"energy": "use --energy", "continuous": "use --beta"}.get(
            select, "nothing is asked for: the weights decide"
        )
        raise click.UsageError(f"--keep belongs to --select budget; with --select {select} {instead}")
    if energy is not None and select != "energy":
        raise click.UsageError(f"--energy belongs to --select energy, not to --select {select}")
    if beta is not None and select != "continuous":
        raise click.UsageError(f"--beta belongs to --select continuous, not to --select {select}")
    if select == "continuous":
        return Continuous() if beta is None else Continuous(beta=beta)
    if select == "budget":
        return Budget(0.5 if keep is None else keep, of)
    return Energy(0.9 if energy is None else energy) if select == "energy" else Vbmf()


def storage_from(
    methods: tuple[str, ...], keep: float | None, of: str, given: Mapping[str, Any], typed: Callable[[str], bool]
) -> Storage | None:
    """The options of a codec, None where none is among the methods; refuses options that do not go together."""
    from edgecompress.settings import Storage

    asked: dict[str, Any] = {name: given[name] for name in STORAGE if given.get(name) not in (None, False)}
    codec = next((method for method in methods if method in CODECS), None)
    if codec is None:
        _refuse_codec_options(asked)
        return None
    _refuse_beside_codec(codec, methods, typed)
    if keep is not None:
        _check_core_size(codec, of if typed("of") else "params", asked)
        asked["keep"] = keep
    if "core_levels" not in asked and "levels" in asked:
        asked["core_levels"] = asked["levels"]
    return Storage(codec, **{STORAGE.get(name, name): value for name, value in asked.items()})


def _refuse_codec_options(asked: Mapping[str, Any]) -> None:
    if asked:
        raise click.UsageError(f"--{next(iter(asked)).replace('_', '-')} belongs to --method {' or '.join(CODECS)}")


def _refuse_beside_codec(codec: str, methods: tuple[str, ...], typed: Callable[[str], bool]) -> None:
    if len(methods) > 1:
        raise click.UsageError(f"--method {codec} stores every layer it can; give it without other methods")
    for name in FOREIGN:
        if typed(name):
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with --method {codec}")


def _check_core_size(codec: str, of: str, asked: Mapping[str, Any]) -> None:
    if "rank" in asked:
        raise click.UsageError("--rank and --keep both say how large the core is; drop one of them")
    if of != "params":
        raise click.UsageError(f"--method {codec} saves no {of}: its --keep is of the params")


def methods_from(methods: tuple[str, ...]) -> tuple[str, ...]:
    """Names of decompositions; none means every one."""
    return () if EVERY_METHOD in methods else methods


def tuning_from(
    sample: Sample,
    epochs: int | None,
    optimizer: Literal["sgd", "adam"] | None,
    lr: float | None,
    batch_size: int,
    distill: float | None,
    seed: int,
    *,
    bf16: bool,
    **more: Any,
) -> FineTuning:
    """The fine-tuning options with the defaults that depend on the sample."""
    from torch.nn.functional import cross_entropy

    from edgecompress.finetuning import FineTuning

    if epochs is None:
        epochs = 0 if sample.splits is None else 3
    if distill is None:
        distill = 0.7 if sample.loss is cross_entropy else 0.0
    if optimizer is None:
        optimizer = "sgd"
    more["pick"] = more.get("pick") or ("last" if sample.validation_seen else "best")
    rate = lr if lr is not None else {"sgd": 0.01, "adam": 0.001}[optimizer]
    return FineTuning(epochs, optimizer, rate, batch_size=batch_size, distill=distill, seed=seed, bfloat16=bf16, **more)


def recipe_from(name: str, methods: tuple[str, ...], penalty: float | None, lasso: float | None) -> Recipe | None:
    """The recipe with its options, None for ``plain``; refuses an option that belongs to another one."""
    from dataclasses import replace

    for option, value, owner in (("--penalty", penalty, "orthogonal"), ("--lasso", lasso, "ordered")):
        if value is not None and name != owner:
            raise click.UsageError(f"{option} belongs to --recipe {owner}, not to --recipe {name}")
    if name == "plain":
        return None
    from edgecompress.recipes import RECIPES as TABLE

    given = {"penalty": penalty, "lasso": lasso, "form": methods[0] if methods and name == "orthogonal" else None}
    made: Recipe = replace(TABLE[name], **{key: value for key, value in given.items() if value is not None})  # type: ignore[type-var]
    return made


def refuse_foreign(recipe: str, select: str, methods: tuple[str, ...], typed: Callable[[str], bool]) -> str:
    """The rank rule that goes with a recipe; an option that it would not look at is refused."""
    if recipe == "continuous":
        if typed("keep") or (typed("select") and select != "continuous"):
            raise click.UsageError("--recipe continuous finds the ranks itself: drop --keep and --select, use --beta")
        return "continuous"
    if recipe == "ordered" and typed("methods") and set(methods) - {"svd"}:
        raise click.UsageError("--recipe ordered trains svd chains only: drop --method")
    if recipe == "ordered" and select != "budget":
        raise click.UsageError("--recipe ordered truncates to a budget: use --keep, not --select")
    if recipe == "orthogonal" and not typed("keep") and not typed("select"):
        return "vbmf"
    return select
