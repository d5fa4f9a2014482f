"""Options: what a run was asked for."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from torch import nn

from edgecompress.devices import DeviceOptions
from edgecompress.files import Json
from edgecompress.finetuning import FineTuning
from edgecompress.planning import EVERYTHING, Scope
from edgecompress.plans import CompressionPlan
from edgecompress.recipes.base import Recipe
from edgecompress.selectors import SELECTORS, Selector
from edgecompress.settings import CALIBRATION_INPUTS, USUAL_EFFORT, USUAL_PLATFORM, USUAL_SELECTOR, Storage

UNTOLD = ("summary", "weighs_losses")

PLAIN = "plain"
"""The name of the way without a recipe: plan, decompose, fine-tune."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """Another model than the dense one to learn from, and what it was called."""

    name: str
    model: nn.Module


@dataclass(frozen=True, slots=True)
class Options:
    """What a run was asked for.

    ``scope`` are the layers, methods and ranks that may be chosen, ``given`` is a plan to use instead of making one;
    ``calibrate`` unlabelled training inputs score candidates, fit factors and re-estimate batch norms (0: weights alone
    are looked at), ``asymmetric`` or each layer on the dense model's own inputs; a ``recipe`` finds ranks or conditions
    weights by ``recipe_epochs`` of training (None: plain); ``storage`` keeps weights as codes by a codec instead of
    replacing layers (None: not); ``tuning`` with 0 epochs means no fine-tuning, and ``teacher`` is what it learns from
    (None: the dense model). ``place`` says more of the device; ``threads`` are numbers of threads to measure with
    (none: one, then all processors).
    """

    selector: Selector = field(default=SELECTORS[USUAL_SELECTOR])
    scope: Scope = EVERYTHING
    given: CompressionPlan | None = None
    calibrate: int = CALIBRATION_INPUTS
    asymmetric: bool = True
    recipe: Recipe | None = None
    recipe_epochs: int = 0
    storage: Storage | None = None
    tuning: FineTuning = field(default_factory=FineTuning)
    teacher: Teacher | None = None
    targets: tuple[str, ...] = ("onnx",)
    device: str = "local"
    place: DeviceOptions = field(default_factory=DeviceOptions)
    threads: tuple[int, ...] = ()
    seconds: float = USUAL_EFFORT.seconds
    platform: str = USUAL_PLATFORM

    def to_json(self) -> Json:
        """A flat JSON object for the report."""
        if self.given is not None:
            return {"plan": f"given, of {self.given.model or 'no name'}", **self._rest()}
        selector = {key: value for key, value in asdict(self.selector).items() if key not in UNTOLD}  # type: ignore[call-overload]
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
            "asymmetric": self.asymmetric,
            "recipe": self.recipe.name if self.recipe else PLAIN,
            **({"storage": asdict(self.storage)} if self.storage else {}),
            **({"recipe_epochs": self.recipe_epochs, "recipe_options": repr(self.recipe)} if self.recipe else {}),
            **asdict(self.tuning),
            **({"teacher": self.teacher.name} if self.teacher else {}),
            "targets": list(self.targets),
            "device": self.device,
            **{key: str(value) for key, value in asdict(self.place).items() if value is not None},
            "threads": list(self.threads),
            "seconds": self.seconds,
            "platform": self.platform,
        }
