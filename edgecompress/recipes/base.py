"""What a recipe is given and what it gives back: a plan and a model, whatever happened in between."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgecompress.files import Json
from edgecompress.plans import CompressionPlan
from edgecompress.progress import Progress, silent
from edgecompress.selectors import Selector
from edgecompress.settings import USUAL_SELECTOR, FineTuning, Scope

if TYPE_CHECKING:
    from torch import nn

    from edgecompress.calibrating import Calibration
    from edgecompress.models import Sample


@dataclass(frozen=True, slots=True)
class RecipeInputs:
    """What a recipe works on.

    ``tuning`` holds the recipe's own training (its ``epochs`` are the recipe's, not those of the fine-tuning after
    it); ``checkpoint`` is where it remembers how far it came, and ``key`` what else its result depends on.
    """

    dense: nn.Module
    sample: Sample
    selector: Selector
    scope: Scope
    tuning: FineTuning
    calibration: Calibration | None = None
    checkpoint: Path | None = None
    key: str = ""
    progress: Progress = field(default=silent)


@dataclass(frozen=True, slots=True)
class RecipeResult:
    """Where fine-tuning starts: ``model`` has the structure of ``given.dense`` decomposed by ``plan``."""

    plan: CompressionPlan
    model: nn.Module
    facts: Json


@dataclass(frozen=True, slots=True)
class Needs:
    """What a recipe goes with.

    ``selector`` is the one it works with where none is requested; ``other_selector`` says why it takes no other, and
    ``other_method`` why no method besides ``methods`` (empty: it takes any).
    """

    selector: str = USUAL_SELECTOR
    other_selector: str = ""
    methods: tuple[str, ...] = ()
    other_method: str = ""


class Recipe(Protocol):
    """A way to find ranks, or to condition weights, by training."""

    @property
    def name(self) -> str:
        """The key in ``RECIPES``."""

    @property
    def summary(self) -> str:
        """One line for people: what it does, when to use it, and the paper."""

    @property
    def needs(self) -> Needs:
        """What it goes with, besides its options."""

    def start(self, given: RecipeInputs) -> RecipeResult:
        """Train, choose ranks, decompose.

        Raises:
            DataError: the sample has no data.
            TrainingError: training diverged.
        """
