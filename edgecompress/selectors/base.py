"""What a rank selector chooses from, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.plans import Cost, Ranks

if TYPE_CHECKING:
    from torch import Tensor


def _nothing() -> Tensor:
    import torch

    return torch.empty(0)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to replace a layer.

    ``error`` is the relative squared error of its weight or, with calibration inputs, of its outputs; ``loss`` what
    that is expected to change in the model's output, where that was measured.
    """

    method: str
    ranks: Ranks
    error: float
    cost: Cost
    loss: float | None = None

    @property
    def chain(self) -> tuple[str, Ranks]:
        """Method and ranks: what stands in the layer's place, whatever is known of it."""
        return self.method, self.ranks


@dataclass(frozen=True, slots=True)
class LayerCandidates:
    """A layer, what it costs dense, and every candidate with fewer parameters and fewer MACs.

    ``kernels`` (groups, T, C, *taps) are its weight and ``at`` prices any other ranks of one of ``methods``, for
    rules that read ranks off the weight; ``note`` says what was out of the ordinary, ``left_out`` why methods were not
    tried. ``changed`` gives what a scored candidate changes of the kernels, (groups, T, D), and the mean patch,
    (groups, D), where that is still in memory.
    """

    name: str
    shape: tuple[int, ...]
    dense: Cost
    candidates: tuple[Candidate, ...]
    methods: tuple[str, ...] = ()
    kernels: Tensor = field(default_factory=_nothing, compare=False)
    at: Callable[[str, Ranks], Candidate] | None = field(default=None, compare=False)
    note: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict, compare=False)
    changed: Callable[[Candidate], tuple[Tensor, Tensor] | None] | None = field(default=None, compare=False)


class Prices(Protocol):
    """Times on a device, by which candidates are chosen too."""

    def total(self, cost: Cost, /) -> Cost:
        """The cost of the whole dense model with its time."""

    def on(self, layer: LayerCandidates, /) -> LayerCandidates:
        """The layer and its candidates with their times."""


Choice = Candidate | str
"""A candidate, or the reason in words why the layer stays dense."""
Choices = Mapping[str, Choice]
"""By the names of layers."""

NO_RANK = "no rank makes it smaller"
"""Why a layer without candidates stays dense."""


def replaced(choices: Choices) -> dict[str, Candidate]:
    """The layers that do not stay dense."""
    return {name: choice for name, choice in choices.items() if isinstance(choice, Candidate)}


def scored(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those with a loss; all, where none has one."""
    return [candidate for candidate in candidates if candidate.loss is not None] or list(candidates)


def as_known(layers: Sequence[LayerCandidates], choices: Choices) -> dict[str, Choice]:
    """The same choices with the losses that the candidates of ``layers`` have."""
    known = {(layer.name, candidate.chain): candidate for layer in layers for candidate in layer.candidates}
    own = {name: known.get((name, candidate.chain), candidate) for name, candidate in replaced(choices).items()}
    return {**choices, **own}


class Selector(Protocol):
    """A rule that gives each layer a candidate, or leaves it dense."""

    @property
    def name(self) -> str:
        """The key in ``SELECTORS``."""

    @property
    def summary(self) -> str:
        """One line for people."""

    @property
    def weighs_losses(self) -> bool:
        """Does it choose by losses and output errors (then they are worth working out), or by weights alone?"""

    def select(self, layers: Sequence[LayerCandidates], total: Cost, /) -> dict[str, Choice]:
        """A choice for every layer; ``total`` is the cost of the whole dense model.

        Raises:
            BudgetError: no choice meets the budget.
        """


def of_unfoldings(layer: LayerCandidates, rank_of: Callable[[Tensor], int]) -> list[Candidate]:
    """For each method the candidate whose ranks are ``rank_of`` its unfoldings (the largest over groups)."""
    found = []
    for method in layer.methods:
        of_groups = [DECOMPOSITIONS[method].unfoldings(kernel) for kernel in layer.kernels.double()]
        ranks = tuple(max(map(rank_of, unfoldings)) for unfoldings in zip(*of_groups, strict=True))
        if ranks and layer.at is not None:
            found.append(layer.at(method, ranks))
    return found


def cheapest(layer: LayerCandidates, found: Sequence[Candidate], nothing: str) -> Choice:
    """The one of fewest MACs, or ``nothing`` where none is smaller than the dense layer."""
    smaller = [candidate for candidate in found if candidate.cost.saves_over(layer.dense)]
    if not smaller:
        return nothing
    return min(smaller, key=lambda candidate: (candidate.cost.macs, candidate.error))
