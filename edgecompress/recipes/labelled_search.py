"""The continuous rank search with labels: the logits follow the loss on validation batches.

Aghababaei-Harandi & Amini (arXiv 2409.03555); see :mod:`edgecompress.selectors.relaxation` for the method and for what
is ours. The validation split decides ranks here, so a score on it is no longer that of unseen data.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from edgecompress.decomposing import decompose
from edgecompress.decomposing.refitting import refit
from edgecompress.decompositions.kernels import weight_from
from edgecompress.files import Json
from edgecompress.finetuning.distillation import asked_loss
from edgecompress.models import Sample, copied
from edgecompress.models.calling import call
from edgecompress.models.datasets import size, take
from edgecompress.planning import plan
from edgecompress.plans import Cost
from edgecompress.progress import Progress
from edgecompress.recipes.base import RecipeInputs, RecipeResult
from edgecompress.selectors.base import Choice, LayerCandidates
from edgecompress.selectors.continuous import Continuous
from edgecompress.selectors.ladders import PREFERRED
from edgecompress.selectors.relaxation import Settled, choose

UNTOLD = ("name", "summary", "weighs_losses")


def search(given: RecipeInputs) -> RecipeResult:
    """What :meth:`edgecompress.recipes.continuous.Searched.start` does."""
    began = time.monotonic()
    options = given.selector if isinstance(given.selector, Continuous) else Continuous()
    selector = _Labelled(options, ValidationBatches(given), given.progress)
    made = plan(
        given.dense,
        given.sample.inputs,
        selector,
        replace(given.scope, methods=given.scope.methods or PREFERRED),
        name=given.sample.name,
        progress=given.progress,
    )
    seconds = time.monotonic() - began
    if given.calibration is None:
        model = decompose(given.dense, made, progress=given.progress)
    else:
        model = refit(given.dense, made, given.calibration, progress=given.progress)
    return RecipeResult(made, model, _facts(options, selector, given, seconds))


class ValidationBatches:
    """The loss of the dense model, in eval mode, with other kernels; on another labelled batch at every call.

    Batches are drawn by ``given.tuning.seed`` from the validation split, without replacement within a batch.
    """

    def __init__(self, given: RecipeInputs) -> None:
        self.sample: Sample = given.sample
        self.dataset: Any = given.sample.data("validation")
        self.model: nn.Module = copied(given.dense).eval().requires_grad_(requires_grad=False)
        self.batch_size = min(given.tuning.batch_size, size(self.dataset))
        self.generator = torch.Generator().manual_seed(given.tuning.seed)

    def __call__(self, mixed: Mapping[str, Tensor]) -> Tensor:
        """The loss with the kernels ``mixed`` (groups, T, C, *taps) of the layers named."""
        drawn = torch.randperm(size(self.dataset), generator=self.generator)[: self.batch_size]
        inputs, targets = take(self.dataset, drawn)
        weights = dict(map(self._weight, mixed.items()))
        run = partial(functional_call, self.model, weights, inputs)
        outputs = call(self.sample.name, "running the model on its data", run)
        return asked_loss(self.sample.name, self.sample.loss, outputs, targets)

    def _weight(self, named: tuple[str, Tensor]) -> tuple[str, Tensor]:
        """A layer's kernels as its parameter, by the parameter's name."""
        name, stacked = named
        layer = self.model.get_submodule(name)
        assert isinstance(layer.weight, Tensor)
        return f"{name}.weight".lstrip("."), weight_from(layer, stacked).to(layer.weight)


@dataclass(frozen=True, slots=True)
class _Labelled:
    """The search as a selector, with a validation loss; remembers how the windows of each layer ended."""

    options: Continuous
    validation: ValidationBatches
    progress: Progress
    windows: dict[str, list[Settled]] = field(default_factory=dict)
    name: str = "continuous"
    summary: str = "the continuous search with labels"
    weighs_losses: bool = False

    def select(self, layers: Sequence[LayerCandidates], _total: Cost) -> dict[str, Choice]:
        """The rank of every layer that has one that saves something."""
        return choose(layers, self.options, self.validation, self.progress, self._remember)

    def _remember(self, name: str, settled: Settled) -> None:
        self.windows.setdefault(name, []).append(settled)


def _facts(options: Continuous, selector: _Labelled, given: RecipeInputs, seconds: float) -> Json:
    """Options, time, and for each layer its windows."""
    settings = {option: value for option, value in asdict(options).items() if option not in UNTOLD}
    layers = {name: list(map(_window_facts, ended)) for name, ended in selector.windows.items()}
    return {
        **settings,
        "batch_size": selector.validation.batch_size,
        "seed": given.tuning.seed,
        "seconds": seconds,
        "layers": layers,
    }


def _window_facts(settled: Settled) -> Json:
    return {
        "spacing": settled.window.spacing,
        "ranks": list(settled.window.ranks),
        "probabilities": list(settled.probabilities),
        "rank": settled.rank,
    }
