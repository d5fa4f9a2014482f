"""What stages may be asked for: what to compress, training, storing as codes, exporting, measuring.

Plain values, so that a command line can show them without importing the stages. A field that a command line offers
has an :class:`OptionInfo` in its metadata: its default, name and meaning are said here alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from edgecompress.errors import DeviceError, FileError, PlanError
from edgecompress.fields import option

OptimizerName = Literal["sgd", "adam"]
SelectEpoch = Literal["best", "last"]
TrainedWeights = Literal["all", "factors"]
ScheduleName = Literal["onecycle", "cosine", "restarts", "constant"]
FactorStart = Literal["scratch", "dense"]
Precision = Literal["fp32", "fp16", "int8"]
Replaces = Literal["same model", "ours", "anything"]
"""What an export may replace: files exported from the same MODEL and unchanged, exported files, or any files."""

NO_RECIPE = "none"
"""The name of the way without a recipe: plan, decompose, fine-tune."""
USUAL_SELECTOR, USUAL_TARGET, USUAL_DEVICE, USUAL_PLATFORM = "budget", "onnx", "local", "pi"
CALIBRATION_INPUTS = 1024
"""Unlabelled training inputs that judge candidates and fit factors."""
USUAL_LR: dict[OptimizerName, float] = {"sgd": 0.01, "adam": 0.001}
TOKENS_LR, TOKENS_BATCH, TOKENS_TEMPERATURE = 3e-4, 8, 1.0
"""Of Adam for the factors of a model whose outputs are tokens; inputs a step; their outputs are not softened."""
CODED_KEEP = 0.02
"""Share of all parameters that a codec keeps."""
FACTORS_LR = 0.02
"""Peak rate for factors with a mean square of one."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be chosen, and for which layers.

    Args:
        methods: names in ``DECOMPOSITIONS``; none: ``AUTO``.
        multiple: ranks are multiples of it, or the layer's largest rank where that is smaller.
        include: patterns of layer names, as in a shell: ``layer1.*``; none: all layers.
        exclude: patterns of layer names that stay dense.

    Raises:
        PlanError: there is no such method, or ``multiple`` is below 1.
    """

    methods: tuple[str, ...] = option(
        (),
        "Decomposition, or a codec, which stores weights in few bytes; repeatable.",
        usual="auto: the best of several",
        name="method",
        basic=True,
        chooses=True,
    )
    multiple: int = option(8, "Ranks are multiples of this; auto: as timed.", low=1, chooses=True, codecs=False)
    include: tuple[str, ...] = option(
        (), "Only layers whose name matches, as in a shell: 'layer1.*'; repeatable.", basic=True, chooses=True
    )
    exclude: tuple[str, ...] = option((), "Not layers whose name matches; repeatable.", basic=True, chooses=True)

    def __post_init__(self) -> None:
        from edgecompress.decompositions import DECOMPOSITIONS

        unknown = [method for method in self.methods if method not in DECOMPOSITIONS]
        if unknown:
            raise PlanError(f"no method {unknown[0]!r}; there are {', '.join(DECOMPOSITIONS)}")
        if self.multiple < 1:
            raise PlanError(f"ranks cannot be rounded to a multiple of {self.multiple}; use 1 or more")

    def refusal(self, name: str) -> str:
        """Why the layer ``name`` is out of scope, or an empty string."""
        excluded = next((pattern for pattern in self.exclude if fnmatchcase(name, pattern)), None)
        if excluded is not None:
            return f"excluded by {excluded!r}"
        if self.include and not any(fnmatchcase(name, pattern) for pattern in self.include):
            return f"not included by {', '.join(map(repr, self.include))}"
        return ""


def _usual_lr() -> str:
    usual = ", ".join(f"{rate:g} {name}" for name, rate in USUAL_LR.items())
    return f"{usual}, {TOKENS_LR:g} adam for tokens, {FACTORS_LR:g} with a codec"


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Options of :func:`edgecompress.finetuning.finetune` and of every recipe's own training.

    Args:
        epochs: passes over the train split; 0: none.
        optimizer: "sgd" with ``momentum``, or "adam".
        lr: the peak of the ``schedule``.
        momentum: of sgd.
        weight_decay: L2 penalty of the weights.
        batch_size: of all processes together, run in ``accumulate`` parts.
        distill: share in [0, 1] of the loss that follows the teacher's softened outputs.
        temperature: softens both outputs for ``distill``.
        schedule: of the learning rate over all steps: "onecycle", "cosine", "restarts" (of cosines, each
            twice as long as the one before) or "constant".
        warm_up: share of all steps up to ``lr``.
        feature: weight of the mean relative distance between the outputs (and weights) of replaced layers and the
            teacher's.
        ema: decay of averaged weights; 0: none.
        smoothing: share of a target that goes to all classes.
        mixup: alpha of its Beta distribution; 0: none.
        cutout: side in pixels of a square of each image that is blanked; 0: none.
        clip: bound of the gradient's norm.
        bfloat16: run forward and backward in autocast.
        accumulate: parts that a batch is run in, for less memory; the gradient is the same. Where outputs are tokens
            there are as many as keep the outputs of a part small.
        portions: decompose the layers in so many parts, with fine-tuning after each.
        train: "all" weights, or the "factors" of the replaced layers alone: all others stay as they are, bit by bit.
        train_items: training inputs of an epoch, drawn so that all have their turn before any has a second; 0: all.
        pick: the epoch that is returned: "best" by validation score, the start included, or "last": where the first
            weights have seen the validation images, which flatters them.
        seed: of orders, augmentation and dropout.
    """

    epochs: int = option(3, "Fine-tuning epochs; 0: none.", usual="{}; 0 without data", low=0, high=100_000, basic=True)
    optimizer: OptimizerName = option(
        "sgd", "Steps of plain or adaptive descent.", usual="{}; adam with a codec, for tokens"
    )
    lr: float = option(USUAL_LR["sgd"], "Peak learning rate.", usual=_usual_lr(), above=0, basic=True)
    momentum: float = 0.9
    weight_decay: float = option(1e-4, "L2 penalty of the weights.", usual="{}; 0 with a codec", low=0)
    batch_size: int = option(
        128, "Training inputs a step.", usual=f"{{}}; {TOKENS_BATCH} for tokens", low=1, high=1_000_000, basic=True
    )
    distill: float = option(
        0.7,
        "Share of the loss that follows the dense model's logits.",
        usual="{}; 0 with a loss of your own",
        low=0,
        high=1,
        basic=True,
    )
    temperature: float = option(
        4.0, "Softens both outputs for --distill; 1: as they are.", usual="{}; 1 for tokens", above=0
    )
    clip: float = 5.0
    seed: int = option(0, "Of everything that is drawn.", low=0, high=1_000_000_000)
    bfloat16: bool = option(False, "Fine-tune in bfloat16 autocast (faster where the CPU has it).", name="bf16")
    schedule: ScheduleName = option("onecycle", "Learning rate over all steps.")
    warm_up: float = option(0.3, "Share of the steps up to the peak rate.", low=0, high=1)
    feature: float = option(
        0.0, "Weight of the distance of the layers' outputs and weights to the dense model's.", low=0, codecs=False
    )
    ema: float = option(0.0, "Decay of averaged weights: 0.999.", low=0, below=1, codecs=False)
    smoothing: float = option(0.0, "Label smoothing: 0.1 is usual.", low=0, high=1)
    mixup: float = option(0.0, "Alpha of mixup: 0.2 is usual.", low=0)
    cutout: int = option(0, "Pixels of a blanked square's side.", low=0)
    accumulate: int = option(
        1, "Parts a batch is run in, for less memory; the same gradient.", usual="{}; more for tokens", low=1
    )
    portions: int = option(1, "Decompose the layers in so many portions, fine-tuning after each.", low=1, codecs=False)
    train: TrainedWeights = option(
        "all",
        "All weights, or the factors of replaced layers alone.",
        usual="{}; factors where outputs are tokens",
        codecs=False,
    )
    train_items: int = option(0, "Training inputs an epoch, others in the next; 0: all.", low=0, high=1_000_000_000)
    pick: SelectEpoch = option(
        "best",
        "Epoch to keep, by validation score or the last.",
        usual="{}; last where the dense weights have seen the validation split",
    )


@dataclass(frozen=True, slots=True)
class Storage:
    """Options of :func:`edgecompress.storing.store` and of the plan before it.

    ``codec`` is a key of ``CODECS``; ``rank`` the edge of the core (of every core, smaller where a size is; None: what
    ``keep`` of all parameters allows) at ``order``; ``mix_axes`` lets the sizes that a weight is reshaped to mix its
    own axes, ``pad`` lets a weight of awkward size be padded with zeros; ``start`` is from fresh factors, or from those
    of the dense weights. Training ends with ``epochs`` in which factors are rounded to ``levels`` (the core to
    ``core_levels``, biases to ``bias_levels``, 0: biases are dropped; odd numbers), at a peak rate of ``lr``; ``rate``
    times the codes' kilobytes and ``damp`` times their squared distances to the levels are added to the loss.
    """

    codec: str
    rank: int | None = option(None, "Edge of the core.", usual="as --keep allows", low=1, high=512, chooses=True)
    keep: float = option(CODED_KEEP, "Fraction of all parameters to keep.", filled_by="keep")
    order: int = option(3, "Axes a weight is reshaped to.", low=3, high=5, chooses=True)
    mix_axes: bool = option(False, "Let those mix the weight's own (taps, channels).", chooses=True)
    pad: bool = option(False, "Pad weights of awkward sizes, as primes, with zeros.", chooses=True)
    start: FactorStart = option("scratch", "First factors.")
    levels: int = option(15, "Values a factor's numbers may take; odd.", low=3, high=255, odd=True)
    core_levels: int = option(15, "The same of the core.", usual="as --levels", low=3, high=255, odd=True)
    bias_levels: int = option(0, "The same of biases.", usual="biases are dropped", low=3, high=255, odd=True)
    epochs: int = option(10, "Epochs with rounding.", name="round_epochs", low=1, high=100_000)
    lr: float = option(8e-3, "Their peak learning rate.", name="round_lr", above=0)
    rate: float = option(0.1, "Weight of the codes' kilobytes in the loss.", low=0)
    damp: float = option(2e-4, "Pull of numbers towards their levels at the end.", low=0)

    @property
    def unrounded(self) -> Storage:
        """The same without what only rounding looks at: equal ones train the same factors in floating point."""
        kept = min(self.bias_levels, 1)
        return replace(self, levels=0, core_levels=0, bias_levels=kept, epochs=0, lr=0.0, rate=0.0, damp=0.0)


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a file is written.

    int8 takes its ranges from ``calibration`` inputs, after those inside each chain were equalized (``equalize``);
    ``keep_float`` stays in float32; ``replaces`` may give way; ``batch`` is the one batch size (None: any, or 1);
    ``kv_cache`` makes the file a step of generation.
    """

    precision: Precision = option(
        "fp32", "Eight-bit or half-precision numbers instead of float32: model.int8.onnx.", name="quantize", basic=True
    )
    calibration: int = option(512, "Training inputs that set the ranges of int8.", name="calibrate", low=1)
    equalize: bool = option(True, "Equal ranges inside each chain before int8; the model computes the same.")
    channels_last: bool = option(False, "litert: take images as (N, H, W, C).")
    replaces: Replaces = "same model"
    keep_float: tuple[str, ...] = option(
        (), "Layers ('head.*') or kinds of operators (Concat) that stay in float32 in a file of fewer bits; repeatable."
    )
    kv_cache: bool = option(False, "onnx: a step of text generation: keys and values of earlier tokens go in and out.")
    rewrite: Literal["auto", "on", "off"] = option("auto", "Rewrite graphs for their runtime, where that is no slower.")
    batch: int | None = option(
        None, "The one batch size of the files, for code that fixes it.", name="batch_size", usual="any, or one", low=1
    )


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often is measured.

    Args:
        threads: of the runtime.
        batch: inputs of one run.
        length: positions of a sequence, where a file takes any; 0: those of its golden pair.
        past: tokens before those, of a file with a KV cache; None: those of its golden pair.
        runs: of each model, at least.
        seconds: of each model, at least.
        minutes: under load, afterwards; 0: none.
    """

    threads: int = 1
    batch: int = option(1, "Inputs of one run.", name="batch_size", low=1, high=65_536)
    length: int = option(0, "Tokens of one input; 0: as exported with.", low=0, high=1_000_000)
    past: int | None = option(None, "Tokens before those, with a KV cache.", usual="as exported", low=0, high=1_000_000)
    runs: int = option(50, "At least so many runs.", low=2, high=1_000_000)
    seconds: float = option(2.0, "Measure at least so long a model.", low=0, high=3_600)
    minutes: float = option(0.0, "Also so many minutes under load.", name="sustained", low=0, high=600)


USUAL_EFFORT = Effort()
"""What is measured where nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What describes a device besides its name; each device refuses what it has no use for.

    ``remote_python`` is an absolute path on the device; ``identity`` and ``known_hosts`` are files of ssh here;
    ``python_bundle`` is a folder with a Python for the device, ``runner`` a program for it that measures models itself.
    """

    remote_python: str | None = option(None, "ssh, adb: the interpreter there, by its whole path.")
    identity: Path | None = option(None, "ssh: the private key to use.")
    known_hosts: Path | None = option(None, "ssh: the file with the board's key.")
    python_bundle: Path | None = option(None, "adb: a folder with a Python.")
    runner: Path | None = option(None, "adb: benchmark_model, onnxruntime_perf_test ... for it.")

    def refuse_other_than(self, kind: str, *used: str) -> None:
        """Name an option that a device of this kind would not look at.

        Raises:
            DeviceError: one was given.
        """
        for name in self.__dataclass_fields__:
            if name not in used and getattr(self, name) is not None:
                raise DeviceError.of(kind, f"--{name.replace('_', '-')} is of no use on such a device; drop it")


@dataclass(frozen=True, slots=True)
class BundleOptions:
    """How a bundle is made; each platform refuses what it has no use for, but for labels."""

    labels: Path | None = option(None, "A text file with the name of each class, one a line. [those of the model]")
    single_file: bool = option(False, "web: one page that holds everything; -o is its name.")
    runtime_dir: Path | None = option(None, "web: a folder with the runtime. [downloaded by npm]", basic=False)

    def refuse_other_than(self, platform: str, *used: str) -> None:
        """Name an option that a platform would not look at.

        Raises:
            FileError: one was given.
        """
        for name in self.__dataclass_fields__:
            if name not in ("labels", *used) and getattr(self, name) not in (None, False):
                raise FileError(f"--{name.replace('_', '-')}: the {platform} bundle has no use for it; drop it")
