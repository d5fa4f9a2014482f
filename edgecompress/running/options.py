"""Options of a run, as one value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import nn

from edgecompress.devices import DeviceOptions
from edgecompress.files import Json
from edgecompress.finetuning import FineTuning
from edgecompress.finetuning.distillation import Ensemble
from edgecompress.models import Sample
from edgecompress.models.kinds import token_loss
from edgecompress.planning import EVERYTHING, Scope
from edgecompress.plans import CompressionPlan
from edgecompress.recipes.base import Recipe
from edgecompress.selectors import SELECTORS, Selector
from edgecompress.settings import (
    CALIBRATION_INPUTS,
    FACTORS_LR,
    NO_RECIPE,
    TOKENS_BATCH,
    TOKENS_LR,
    TOKENS_TEMPERATURE,
    USUAL_DEVICE,
    USUAL_EFFORT,
    USUAL_LR,
    USUAL_PLATFORM,
    USUAL_SELECTOR,
    USUAL_TARGET,
    OptimizerName,
    Precision,
    Storage,
)

UNREPORTED = ("summary", "weighs_losses")


@dataclass(frozen=True, slots=True)
class Teacher:
    """Other models than the dense one to learn from, and the names they were given by."""

    names: tuple[str, ...]
    models: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        """All names, for the report."""
        return ", ".join(self.names)

    @property
    def model(self) -> nn.Module:
        """The one model, or all of them as one."""
        return self.models[0] if len(self.models) == 1 else Ensemble(self.models)


@dataclass(frozen=True, slots=True)
class Options:
    """What :func:`edgecompress.run` and :func:`edgecompress.compress` are to do.

    Args:
        selector: the rule that chooses ranks, such as ``Budget(keep=0.5)``.
        scope: the layers, methods and ranks that may be chosen.
        given: a plan to use instead of making one.
        calibrate: unlabelled training inputs that score candidates, fit factors and re-estimate batch norms; 0: only
            weights are looked at.
        asymmetric: each layer is fitted on the inputs it has after those before it were replaced, else on the dense
            model's own; None: whichever keeps the outputs nearer on calibration inputs held back.
        recipe: finds ranks or conditions weights by training; None: plan, decompose, fine-tune.
        recipe_epochs: epochs of a recipe's own training.
        storage: weights are stored as codes by a codec instead of replacing layers; None: they are not.
        tuning: fine-tuning after decomposition; with 0 epochs there is none.
        teacher: what fine-tuning learns from; None: the dense model.
        targets: formats to export to; the first is measured.
        device: where to measure, as ``local`` or ``ssh:pi@board``.
        place: what describes the device besides.
        threads: numbers of threads to measure with; empty: one, then all processors.
        seconds: of measuring each model, at least.
        platforms: what bundles are for, each one.
        quantize: precision of the compressed model's files; the dense model's stay in float32.
        keep_float: layers and kinds of operators that stay in float32 in files of fewer bits.
        kv_cache: files are steps of generation, with keys and values as inputs and outputs.
        command: what was typed, for the report.
        pareto: so many other plans that were measured for a latency, and that no other beats, are compressed too.
    """

    selector: Selector = field(default=SELECTORS[USUAL_SELECTOR])
    scope: Scope = EVERYTHING
    given: CompressionPlan | None = None
    calibrate: int = CALIBRATION_INPUTS
    asymmetric: bool | None = None
    recipe: Recipe | None = None
    recipe_epochs: int = 0
    storage: Storage | None = None
    tuning: FineTuning = field(default_factory=FineTuning)
    teacher: Teacher | None = None
    targets: tuple[str, ...] = (USUAL_TARGET,)
    device: str = USUAL_DEVICE
    place: DeviceOptions = field(default_factory=DeviceOptions)
    threads: tuple[int, ...] = ()
    seconds: float = USUAL_EFFORT.seconds
    platforms: tuple[str, ...] = (USUAL_PLATFORM,)
    quantize: Precision = "fp32"
    keep_float: tuple[str, ...] = ()
    kv_cache: bool = False
    command: str = ""
    pareto: int = 0

    def to_json(self) -> Json:
        """A flat JSON object for the report."""
        if self.given is not None:
            return {"plan": f"given, of {self.given.model or 'no name'}", **self._rest()}
        selector = asdict(self.selector)  # type: ignore[call-overload]
        selector = {key: value for key, value in selector.items() if key not in UNREPORTED and value is not None}
        return {
            "select": selector.pop("name"),
            **selector,
            "methods": list(self.scope.methods) or "auto",
            "multiple": self.scope.multiple,
            "include": list(self.scope.include),
            "exclude": list(self.scope.exclude),
            **self._rest(),
        }

    def _rest(self) -> Json:
        return {
            "calibrate": self.calibrate,
            "asymmetric": "measured" if self.asymmetric is None else self.asymmetric,
            "recipe": self.recipe.name if self.recipe else NO_RECIPE,
            **({"storage": asdict(self.storage)} if self.storage else {}),
            **({"recipe_epochs": self.recipe_epochs, "recipe_options": repr(self.recipe)} if self.recipe else {}),
            **asdict(self.tuning),
            **({"teacher": self.teacher.name} if self.teacher else {}),
            "targets": list(self.targets),
            "device": self.device,
            **{key: str(value) for key, value in asdict(self.place).items() if value is not None},
            "threads": list(self.threads),
            "seconds": self.seconds,
            "platform": ", ".join(self.platforms),
            **({"pareto": self.pareto} if self.pareto else {}),
            **({"quantize": self.quantize, "keep_float": list(self.keep_float)} if self.quantize != "fp32" else {}),
            **({"kv_cache": True} if self.kv_cache else {}),
        }


def tuning_defaults(sample: Sample, optimizer: OptimizerName | None = None, *, coded: bool = False) -> dict[str, Any]:
    """Fields of fine-tuning whose usual value depends on the sample, on a codec, or on the optimizer."""
    tokens = sample.kind == "tokens"
    optimizer = optimizer or ("adam" if coded or tokens else "sgd")
    values: dict[str, Any] = {"optimizer": optimizer, "lr": FACTORS_LR if coded else USUAL_LR[optimizer]}
    if sample.splits is None:
        values["epochs"] = 0
    if sample.loss not in (nn.functional.cross_entropy, token_loss):
        values["distill"] = 0.0
    if tokens:
        values |= {"batch_size": TOKENS_BATCH, "temperature": TOKENS_TEMPERATURE}
    if tokens and not coded:
        values |= {"train": "factors"} | ({"lr": TOKENS_LR} if optimizer == "adam" else {})
    return values | ({"weight_decay": 0.0} if coded else {}) | ({"pick": "last"} if sample.validation_seen else {})


def usual_tuning(sample: Sample, tuning: FineTuning, epochs: int | None = None) -> FineTuning:
    """``tuning`` as it fits the sample, unless it was chosen; ``epochs`` in place of its own, if given."""
    fitting = replace(tuning, **tuning_defaults(sample)) if tuning == FineTuning() else tuning
    return fitting if epochs is None else replace(fitting, epochs=epochs)
