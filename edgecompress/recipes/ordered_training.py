"""Ordered low rank: factors trained so that any first b of their ranks make a model (Maestro).

After Horvath, Laskaridis, Rajput & Wang, ICML 2024 (arXiv 2308.14929). Every layer starts as its SVD at full rank. Each
step draws one pair of a layer and a width, uniformly over all pairs; that layer uses its first ``width`` ranks, every
other all of its own. A hierarchical group lasso, whose group b holds the ranks from b on, pushes useless tails to zero,
and after every epoch tails that have become negligible are dropped. Then the factors are cut to any budget without
retraining ("train once, deploy everywhere").

The paper itself was not read; this follows a description of its authors' code. Ours: a tail is negligible relative to
its layer's own norm, since the subgradient steps of SGD come near zero and never reach it (a proximal step would, but
it is the optimizer's, and that is the common one here); the start is the trained dense model; the greedy cut weighs
the relative error of a layer's weight by what it saves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from edgecompress.calibrating import calibration_of, recalibrate
from edgecompress.decomposing import decompose
from edgecompress.errors import PlanError
from edgecompress.finetuning.distillation import Distilled
from edgecompress.finetuning.loop import Objective, fit
from edgecompress.layers import put, weighted_layers
from edgecompress.models import state_digest
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from edgecompress.recipes.base import RecipeInputs, RecipeResult
from edgecompress.recipes.ordered import Ordered
from edgecompress.recipes.ordered_layers import Ranked, ranked_layers
from edgecompress.recipes.orthogonal_training import full_rank_plan
from edgecompress.recipes.truncation import Truncated, truncate
from edgecompress.selectors import Budget

RECALIBRATED = 1024
"""Training inputs that batch norms are re-estimated on where no calibration inputs are given."""


def train(options: Ordered, given: RecipeInputs) -> RecipeResult:
    """What :meth:`edgecompress.recipes.ordered.Ordered.start` does."""
    if not isinstance(given.selector, Budget):
        raise PlanError("ordered low rank is cut to a budget: use --keep, not another --select")
    full = full_rank_plan(given.dense, given.sample.inputs, "svd", given.scope)
    whole = with_ranks(given.dense, full.layers)
    truncate(whole, given.dense, full, given.selector, given.scope, given.sample)  # out of reach is said at once
    tuning = replace(given.tuning, ema=0.0)
    objective = Sampled(Distilled(given.sample, tuning, None if options.full_pass else given.dense), options)
    done = fit(
        whole,
        given.sample,
        tuning,
        objective,
        select_epoch="last",
        what="ordered",
        checkpoint=given.checkpoint,
        key=f"{given.key} {options!r} {state_digest(given.dense)}",
        progress=given.progress,
    )
    facts = {
        "lasso": options.lasso,
        "threshold": options.threshold,
        "full_pass": options.full_pass,
        "epochs": tuning.epochs,
        "alive": {name: int(layer.rank) for name, layer in ranked_layers(done.model)},
        "history": [asdict(epoch) for epoch in done.history],
    }
    cut = truncate(done.model, given.dense, full, given.selector, given.scope, given.sample)
    return RecipeResult(cut.plan, _settled(cut, given), facts)


def _settled(cut: Truncated, given: RecipeInputs) -> nn.Module:
    """The cut model with batch-norm statistics of its own."""
    calibration = given.calibration or calibration_of(given.sample, RECALIBRATED, given.tuning.seed)
    return recalibrate(cut.model, calibration.inputs)


def with_ranks(dense: nn.Module, layers: Sequence[LayerPlan]) -> nn.Module:
    """``dense`` with each layer as its SVD at full rank whose rank can be cut; computes the same."""
    names = {layer.name for layer in layers}
    rest = tuple(Skipped(item.name, "") for item in weighted_layers(dense) if item.name not in names)
    model = decompose(dense, CompressionPlan(layers=tuple(layers), skipped=rest, rehearsed=True))
    for layer in layers:
        chain = model.get_submodule(layer.name)
        assert isinstance(chain, nn.Sequential)
        model = put(model, layer.name, Ranked(chain))
    return model


class Sampled(Objective):
    """The task's loss at one sampled pair of layer and width, and the hierarchical group lasso."""

    def __init__(self, task: Distilled, options: Ordered) -> None:
        self.task, self.options = task, options

    def to(self, device: torch.device) -> None:
        """Move what the task holds."""
        self.task.to(device)

    def loss(self, model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """One draw from torch's global generator."""
        layers = [layer for _, layer in ranked_layers(model)]
        if not layers:
            return self.task.loss(model, inputs, targets)
        number, width = draw([int(layer.rank) for layer in layers])
        layers[number].width = width
        try:
            sampled = self._task(model, layers[number], inputs, targets)
        finally:
            layers[number].width = None
        return sampled + self.options.lasso * group_lasso(layers) if self.options.lasso else sampled

    def _task(self, model: nn.Module, sampled: Ranked, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """With ``full_pass`` the loss of the whole model and that of the sampled one against what the whole says."""
        if not self.options.full_pass:
            return self.task.loss(model, inputs, targets)
        width, sampled.width = sampled.width, None
        whole = model(*inputs)
        sampled.width = width
        taught = nn.functional.cross_entropy(model(*inputs).float(), whole.detach().float().softmax(1))
        return self.task.of_outputs(whole, inputs, targets) + taught

    def epoch_ended(self, model: nn.Module) -> None:
        """Drop the tails that no longer count."""
        for _, layer in ranked_layers(model):
            layer.shrink(live_rank(layer, self.options.threshold))


def draw(ranks: Sequence[int]) -> tuple[int, int]:
    """A layer's number and a width in 1 ... its rank, uniform over all such pairs, from torch's global generator."""
    place = int(torch.randint(sum(ranks), ()))
    for number, rank in enumerate(ranks):
        if place < rank:
            return number, place + 1
        place -= rank
    raise AssertionError("the place lies within the sum")


def group_lasso(layers: Sequence[Ranked]) -> Tensor:
    """The sum over layers and b of ``|U[:, b:]|_F + |V[:, b:]|_F``."""
    return torch.stack([expand.sum() + reduce.sum() for expand, reduce in (layer.tails() for layer in layers)]).sum()


def live_rank(layer: Ranked, threshold: float) -> int:
    """The least b, at least 1, beyond which ``|U[:, b:]| |V[:, b:]|`` is below ``threshold`` of the whole product."""
    expand, reduce = layer.tails()
    product = (expand * reduce).detach()
    return max(1, int((product >= threshold * product[0]).sum()))
