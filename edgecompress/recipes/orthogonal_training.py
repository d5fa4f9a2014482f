"""Orthogonal over-parameterization: full-rank factor chains trained with orthogonality penalties, then ranks.

After He, Jiang & Wu 2024 (arXiv 2408.16289), of which only the abstract could be read: a network is over-parameterized,
trained with orthogonal regularization, and the rank of each layer is estimated by VBMF. Everything else is ours: the
form of the factors (SVD, Tucker-2 or HT-2 at full rank, so that the first output is the dense net's), the penalty, and
what happens to layers whose ranks would save nothing (their factors are merged again).

The penalty of a factor is the mean over its vectors of the squared cosines with all others, so that it is at home
between 0 and about 1 whatever the size of the layer: r random vectors of n entries have (r - 1) / n. In these cosines
vectors far shorter than the factor's others count for little (``FLOOR``): their direction is noise where a weight is of
low rank or has decayed, and the gradient of a true cosine grows as one over the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from statistics import fmean

import torch
from torch import Tensor, nn

from edgecompress.decomposing import decompose, merged
from edgecompress.decomposing.refitting import refit
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import is_table, kept_energy
from edgecompress.decompositions.kernels import groups_of, kernels, weight_of
from edgecompress.errors import PlanError
from edgecompress.files import Json
from edgecompress.finetuning.distillation import Distilled, live_kernels
from edgecompress.finetuning.loop import Objective, fit
from edgecompress.models import copied, put_state, state_digest
from edgecompress.models.adapting import adapters_of
from edgecompress.planning import Scope, plan, survey
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from edgecompress.progress import silent
from edgecompress.recipes.base import RecipeInputs, RecipeResult
from edgecompress.recipes.orthogonal import Orthogonal

ROWS, COLUMNS = "rows", "columns"
ORTHOGONAL: dict[str, dict[str, str]] = {
    "svd": {"reduce": ROWS, "expand": COLUMNS},
    "tucker2": {"reduce": ROWS, "expand": COLUMNS},
    "hierarchical_tucker2": {"reduce": ROWS, "vertical": ROWS, "expand": COLUMNS},
}
"""For each form the links whose vectors are to be orthogonal, as matrices (outputs, everything else)."""
FLOOR = 0.1
"""The squared cosines of a vector are halved where its squared length is this share of its factor's mean one."""
TINY = 1e-12


def train(options: Orthogonal, given: RecipeInputs) -> RecipeResult:
    """What :meth:`edgecompress.recipes.orthogonal.Orthogonal.start` does."""
    if options.form not in ORTHOGONAL:
        raise PlanError(f"no orthogonal form {options.form!r}; there are {', '.join(ORTHOGONAL)}: name one by --method")
    _planned(options, given.dense, replace(given, calibration=None, progress=silent))
    full = full_rank_plan(given.dense, given.sample.inputs, options.form, given.scope)
    over = decompose(given.dense, full)
    objective = Penalized(Distilled(given.sample, given.tuning, given.dense), full.layers, options.penalty)
    done = fit(
        over,
        given.sample,
        given.tuning,
        objective,
        select_epoch="last",
        what="orthogonal",
        checkpoint=given.checkpoint,
        key=f"{given.key} {options!r} {state_digest(given.dense)}",
        progress=given.progress,
    )
    conditioned = merged_whole(done.model, given.dense, full.layers)
    made = _planned(options, conditioned, given)
    facts = {
        "form": options.form,
        "penalty": options.penalty,
        "epochs": given.tuning.epochs,
        "orthogonality": _measured(_orthogonality, over, done.model, full.layers),
        "leading_energy": _measured(leading_energy, given.dense, conditioned, full.layers),
        "ranks": {layer.name: [layer.method, *layer.ranks] for layer in made.layers},
        "history": [asdict(epoch) for epoch in done.history],
    }
    return RecipeResult(made, _filled(conditioned, made, given), facts)


def _planned(options: Orthogonal, conditioned: nn.Module, given: RecipeInputs) -> CompressionPlan:
    scope = replace(given.scope, methods=given.scope.methods or tuple(dict.fromkeys((options.form, "svd"))))
    return plan(
        conditioned,
        given.sample.inputs,
        given.selector,
        scope,
        calibration=given.calibration,
        name=given.sample.name,
        progress=given.progress,
    )


def _measured(
    measure: Callable[[nn.Module, Sequence[LayerPlan]], float],
    before: nn.Module,
    after: nn.Module,
    layers: Sequence[LayerPlan],
) -> Json:
    return {"before": measure(before, layers), "after": measure(after, layers)}


def _orthogonality(model: nn.Module, layers: Sequence[LayerPlan]) -> float:
    return float(orthogonality(model, layers).detach())


def _filled(conditioned: nn.Module, made: CompressionPlan, given: RecipeInputs) -> nn.Module:
    if given.calibration is None:
        return decompose(conditioned, made, progress=given.progress)
    return refit(conditioned, made, given.calibration, progress=given.progress)


class Penalized(Objective):
    """A task's loss and the orthogonality penalty of a model's chains."""

    def __init__(self, task: Objective, layers: Sequence[LayerPlan], penalty: float) -> None:
        self.task, self.layers, self.penalty = task, layers, penalty

    def to(self, device: torch.device) -> None:
        """Move what the task holds."""
        self.task.to(device)

    def loss(self, model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Task and penalty."""
        loss = self.task.loss(model, inputs, targets)
        return loss + self.penalty * orthogonality(model, self.layers) if self.penalty else loss


def full_rank_plan(
    dense: nn.Module, inputs: tuple[Tensor, ...], form: str, scope: Scope | None = None
) -> CompressionPlan:
    """Every layer that may be replaced, by ``form`` at the ranks where it is exact, or by ``svd`` where it cannot.

    It is for training only and names no costs.

    Raises:
        PlanError: a pattern of ``scope`` matches no layer.
    """
    layers, seen = [], survey(dense, inputs, scope or Scope())
    tables = {item.name: "an embedding, which is not trained in factors" for item in seen.items if is_table(item.layer)}
    for item in (item for item in seen.items if item.name not in tables):
        method = form if DECOMPOSITIONS[form].supports(item.layer) else "svd"
        ranks = DECOMPOSITIONS[method].max_ranks(item.layer)
        layers.append(LayerPlan(item.name, method, ranks, tuple(weight_of(item.layer).shape), 0.0))
    skipped = tuple(Skipped(name, reason) for name, reason in (seen.reasons | tables).items())
    return CompressionPlan(layers=tuple(layers), skipped=skipped, rehearsed=True, adapters=adapters_of(dense))


def merged_whole(model: nn.Module, dense: nn.Module, layers: Sequence[LayerPlan]) -> nn.Module:
    """A net of the structure of ``dense`` that computes what ``model``, its layers replaced by chains, computes."""
    whole, state = copied(dense), dict(model.state_dict())
    for layer in layers:
        chain = model.get_submodule(layer.name)
        for name in chain.state_dict():
            del state[f"{layer.name}.{name}" if layer.name else name]
        one = merged(chain, dense.get_submodule(layer.name), layer)
        state |= {f"{layer.name}.{name}" if layer.name else name: t for name, t in one.state_dict().items()}
    put_state(whole, state)
    return whole.eval()


def orthogonality(model: nn.Module, layers: Sequence[LayerPlan]) -> Tensor:
    """The sum over factors of ``|C - I|^2 / r``: 0 where the vectors of every factor are orthogonal; with gradients."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        skewed = [_skewed(vectors) for layer in layers for vectors in _factors(model, layer)]
    return torch.stack(skewed).sum() if skewed else torch.zeros(())


def leading_energy(dense: nn.Module, layers: Sequence[LayerPlan]) -> float:
    """The mean over layers of the share of the squared singular values that their larger half holds; 1 for no layers.

    Of kernels as matrices (T, everything else); of a grouped layer's, their mean.
    """
    shares = [
        fmean(_leading_half(kernel.flatten(1)) for kernel in kernels(dense.get_submodule(layer.name)).cpu().double())
        for layer in layers
    ]
    return fmean(shares) if shares else 1.0


def _leading_half(matrix: Tensor) -> float:
    kept = kept_energy(matrix)
    return float(kept[(len(kept) - 1) // 2] / kept[-1].clamp_min(TINY))


def _factors(model: nn.Module, layer: LayerPlan) -> Iterator[Tensor]:
    """(groups, r, n): the vectors of each factor of a chain that are to be orthogonal."""
    chain = model.get_submodule(layer.name)
    for link, which in ORTHOGONAL[layer.method].items():
        factor = chain.get_submodule(link)
        matrices = live_kernels(factor, groups_of(factor)).flatten(2)
        yield matrices.transpose(1, 2) if which == COLUMNS else matrices


def _skewed(vectors: Tensor) -> Tensor:
    """The mean over vectors (groups, r, n) of the squared cosines with the others of their group, short ones muted."""
    squares = vectors.square().sum(2, keepdim=True)
    unit = vectors / (squares + FLOOR * squares.mean(1, keepdim=True) + TINY).sqrt()
    cosines = unit @ unit.transpose(1, 2)
    apart = cosines - torch.diag_embed(cosines.diagonal(dim1=1, dim2=2))
    return apart.square().sum() / squares.numel()
