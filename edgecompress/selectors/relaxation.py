"""Ranks by a continuous relaxation: every layer is a mixture of itself at several ranks, and the mixture is learned.

Aghababaei-Harandi & Amini (arXiv 2409.03555; ORTOS, later RENE), by its authors' public description; the paper itself
was not read. Layer i has candidate ranks ``R_i``, logits ``a_i`` and ``p_i = softmax(a_i)``; it computes with the mixed
weight ``M_i = sum over r of p_i[r] W_i[r]``, which is one weight because a layer is linear in it. With

- Eq. 5, ``L_r = gamma sum over i of (sum over r of p_i[r] r / max R_i) ^ beta``,
- Eq. 6, ``(sum over i of |W_i - M_i|^2) L_r`` for the factors of all candidates, needs no data,
- Eq. 7, ``L_val L_r`` for the logits, ``L_val`` being the loss on a labelled batch,

``warm_up`` steps of the factors alone and ``iterations`` of both end in one rank a layer, the most probable. Then the
ranks within half a spacing of it are searched at a finer spacing, from fresh factors and logits, down to spacing 1.
Without data the selector puts the squared error of Eq. 6 in the place of ``L_val``: the repository's ``recon``. A
product of error and rank rewards a rank whose error falls faster than ``r ^ -beta``, as every weight's does near its
exact rank: most layers then keep the highest rank that pays, unless ``beta`` is raised. With labels, by
:class:`edgecompress.recipes.continuous.Searched`, they do not. The squared error is absolute, as in Eq. 6: large
weights count for more. ``gamma`` scales a product, so no optimum depends on it, only the length of the factors' steps.

Ours: the ranks searched are only those whose chain saves parameters and MACs; Adam for the logits (the repository has
SGD with momentum for both), which does not depend on the scale of the weights; gradients of each layer's factors are
clipped; factors and logits step from the same point; a number that is not finite is an error, never a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adam

from edgecompress.decomposing import fitted
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import NUMERICAL
from edgecompress.errors import TrainingError, first_line
from edgecompress.progress import Progress, silent
from edgecompress.selectors.base import Choice, LayerCandidates
from edgecompress.selectors.continuous import Continuous
from edgecompress.selectors.ladders import Ladder, Window, first_window, ladder_of, next_window

ValidationLoss = Callable[[Mapping[str, Tensor]], Tensor]
"""The loss of the model whose layers have the given kernels (groups, T, C, *taps), by name; a differentiable scalar."""

MOMENTUM = 0.9
CLIP = 1.0
"""Bound of the norm of the gradient of a layer's factors: a step moves them by lr / (1 - momentum) at most."""

ROUNDING = 1e-7
"""Share of the squared weights that is added to their squared error without data: ranks that are exact but for the
rounding of float32 differ by their rank alone."""

SMALLEST = 1e-20
"""Adam's guard against dividing by zero, below any gradient: the product of two small losses is small."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What a window ended with: a probability for each rank."""

    window: Window
    probabilities: tuple[float, ...]

    @property
    def rank(self) -> int:
        """The most probable rank; of equals the lowest."""
        return self.window.ranks[self.probabilities.index(max(self.probabilities))]


Watch = Callable[[str, Settled], None]
"""Told, layer by layer, how each window ended."""


def unwatched(_name: str, _settled: Settled) -> None:
    """Remember nothing."""


def choose(
    layers: Sequence[LayerCandidates],
    options: Continuous,
    validation_loss: ValidationLoss | None = None,
    progress: Progress = silent,
    watch: Watch = unwatched,
) -> dict[str, Choice]:
    """A candidate for every layer, or the reason it has none.

    Raises:
        TrainingError: the search diverged, at the layer it names.
    """
    ladders = {layer.name: ladder for layer in layers if (ladder := ladder_of(layer)) is not None}
    ranks = search(list(ladders.values()), options, validation_loss, progress, watch)
    found = {name: ladder.at(ranks[name]) for name, ladder in ladders.items()}
    return {layer.name: found.get(layer.name, "no tied rank makes it smaller") for layer in layers}


def search(
    ladders: Sequence[Ladder],
    options: Continuous,
    validation_loss: ValidationLoss | None = None,
    progress: Progress = silent,
    watch: Watch = unwatched,
) -> dict[str, int]:
    """The tied rank of each layer, by name; the logits follow ``validation_loss`` (Eq. 7) or the squared error.

    Raises:
        TrainingError: the search diverged, at the layer it names.
    """
    windows, number = [first_window(ladder, options.step) for ladder in ladders], 0
    while any(window.spacing for window in windows):
        number += 1
        mixed = [Mixed(ladder, window) for ladder, window in zip(ladders, windows, strict=True)]
        if any(len(window.ranks) > 1 for window in windows):
            with torch.enable_grad():
                _descend(mixed, options, validation_loss, progress, f"search, window {number}")
        for position, layer in enumerate(mixed):
            settled = layer.settled()
            if layer.window.spacing:
                watch(layer.name, settled)
            windows[position] = next_window(layer.ladder, settled.rank, layer.window.spacing, options.shrink)
    return {ladder.layer.name: window.ranks[0] for ladder, window in zip(ladders, windows, strict=True)}


class Mixed:
    """One layer while a window is searched: factors for each candidate, started from the method's own, and logits."""

    def __init__(self, ladder: Ladder, window: Window) -> None:
        self.ladder, self.window, self.name = ladder, window, ladder.layer.name
        self.kernels = ladder.layer.kernels
        self.kernels = self.kernels.to(torch.promote_types(self.kernels.dtype, torch.float32))
        self.method = DECOMPOSITIONS[ladder.method]
        self.candidates = [self._factors(rank) for rank in window.ranks]
        self.logits = torch.zeros(len(window.ranks), dtype=self.kernels.dtype, requires_grad=True)
        self.shares = torch.tensor(window.ranks, dtype=self.kernels.dtype) / max(window.ranks)

    def _factors(self, rank: int) -> list[Tensor]:
        try:
            factors = fitted(self.method, self.ladder.at(rank).ranks, self.kernels)[0]
        except NUMERICAL as error:
            raise TrainingError(
                f"{self.name}: the rank search diverged before its first step, {first_line(error)}; "
                "try other methods, or exclude the layer"
            ) from error
        return [factor.to(self.kernels.dtype, copy=True).requires_grad_() for factor in factors]

    @property
    def parameters(self) -> list[Tensor]:
        """The factors of all candidates."""
        return [factor for factors in self.candidates for factor in factors]

    def weights(self) -> Tensor:
        """(candidates, groups, T, C, *taps): the kernels each candidate stands for."""
        return torch.stack([self._whole(factors) for factors in self.candidates])

    def _whole(self, factors: Sequence[Tensor]) -> Tensor:
        return torch.stack([self.method.reconstruct(of_group) for of_group in zip(*factors, strict=True)])

    def settled(self) -> Settled:
        """The probabilities as they are now."""
        return Settled(self.window, tuple(self.logits.detach().softmax(0).tolist()))


def rank_loss(probabilities: Sequence[Tensor], shares: Sequence[Tensor], gamma: float, beta: float) -> Tensor:
    """Eq. 5; for each layer the probabilities (candidates,) and the ranks as shares of the largest, alike."""
    means = torch.stack([own.mul(share).sum() for own, share in zip(probabilities, shares, strict=True)])
    loss: Tensor = gamma * means.pow(beta).sum()
    return loss


def mixture(probabilities: Tensor, weights: Tensor) -> Tensor:
    """(groups, T, C, *taps): the mixed weight of ``weights`` (candidates, groups, T, C, *taps)."""
    return torch.einsum("r,r...->...", probabilities, weights)


def squared_errors(kernels: Sequence[Tensor], mixed: Sequence[Tensor]) -> Tensor:
    """(layers,): squared distance of each mixed weight from the layer's own; the sum is the first part of Eq. 6."""
    return torch.stack([(own - mix).square().sum() for own, mix in zip(kernels, mixed, strict=True)])


def _descend(
    layers: Sequence[Mixed], options: Continuous, labelled: ValidationLoss | None, progress: Progress, what: str
) -> None:
    """The factors alone for a while, then factors and logits together."""
    factors = [factor for layer in layers for factor in layer.parameters]
    logits = [layer.logits for layer in layers]
    optimizers = SGD(factors, options.lr, MOMENTUM, nesterov=True), Adam(logits, options.logits_lr, eps=SMALLEST)
    steps = options.warm_up + options.iterations
    for step in range(1, steps + 1):
        weights = [layer.weights() for layer in layers]
        losses = [_factors_loss(layers, weights, options)]
        if step > options.warm_up:
            losses.append(_logits_loss(layers, [own.detach() for own in weights], options, labelled))
        _update(layers, losses, optimizers)
        progress(what, step, steps, f"loss {float(losses[-1].detach()):.4g}")


def _factors_loss(layers: Sequence[Mixed], weights: Sequence[Tensor], options: Continuous) -> Tensor:
    """Eq. 6 at fixed probabilities."""
    fixed = [layer.logits.detach().softmax(0) for layer in layers]
    errors = squared_errors([layer.kernels for layer in layers], list(map(mixture, fixed, weights)))
    _refuse_divergence(layers, errors)
    return errors.sum() * rank_loss(fixed, [layer.shares for layer in layers], options.gamma, options.beta)


def _logits_loss(
    layers: Sequence[Mixed], weights: Sequence[Tensor], options: Continuous, validation_loss: ValidationLoss | None
) -> Tensor:
    """Eq. 7 at fixed factors; without a validation loss the squared error stands for it."""
    learned = [layer.logits.softmax(0) for layer in layers]
    mixed = list(map(mixture, learned, weights))
    errors = squared_errors([layer.kernels for layer in layers], mixed)
    if validation_loss is None:
        loss = errors.sum() + ROUNDING * sum(layer.kernels.square().sum() for layer in layers)
    else:
        loss = validation_loss({layer.name: mix for layer, mix in zip(layers, mixed, strict=True)})
        _refuse_divergence(layers, errors, loss)
    return loss * rank_loss(learned, [layer.shares for layer in layers], options.gamma, options.beta)


def _update(layers: Sequence[Mixed], losses: Sequence[Tensor], optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """One step of the factors and, where there are two losses, of the logits."""
    for optimizer, loss in zip(optimizers, losses, strict=False):
        optimizer.zero_grad()
        loss.backward()
    for layer in layers:
        clip_grad_norm_(layer.parameters, CLIP)
    for optimizer in optimizers[: len(losses)]:
        optimizer.step()
    _refuse_divergence(layers, torch.stack([layer.logits.detach().sum() for layer in layers]))


def _refuse_divergence(layers: Sequence[Mixed], numbers: Tensor, loss: Tensor | None = None) -> None:
    """Softmax of a NaN has no largest entry: stop, at the first layer whose number is not finite.

    Where it is the model's ``loss``, at the layer whose mixed weight is farthest from its own for its size.
    """
    finite = numbers.detach().isfinite()
    if bool(finite.all()) and (loss is None or bool(loss.detach().isfinite())):
        return
    sizes = torch.stack([layer.kernels.square().sum() for layer in layers])
    position = int((numbers.detach() / sizes).argmax()) if bool(finite.all()) else finite.tolist().index(False)
    raise TrainingError(
        f"{layers[position].name}: the rank search diverged, its loss is not finite any more; "
        "try smaller lr and logits_lr, other methods, or exclude the layer"
    )
