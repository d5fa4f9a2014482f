"""Fits of one layer by all methods in the metrics of its inputs and outputs, sharing what methods and ranks can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgecompress.calibrating.sensitivity import Components, Metric
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import squared_norm, stacked
from edgecompress.decompositions.fitting import Fitting, fitting
from edgecompress.decompositions.projection import squared_outputs
from edgecompress.decompositions.sketch import WIDE, Sketch
from edgecompress.decompositions.svd import Principal
from edgecompress.plans import Ranks
from edgecompress.selectors.base import Candidate

MAX_SCORED, MOST_WIDE_SCORED = 16, 6
"""Candidates of a layer whose loss is worked out, evenly spread over those that no other beats in cost and error; and
of a layer of wide patches, where each is a matter of seconds."""

SCORED_STEPS, WIDE_STEPS = 3, 1
"""Refining steps of a candidate that is only scored; of wide patches the first, which brings the most."""


@dataclass(frozen=True, slots=True)
class Sliced:
    """SVDs of one weight at all ranks: ``left`` (T, k) times ``right`` (k, D), of which the first ones are taken."""

    weight: Tensor
    left: Tensor
    right: Tensor

    def change(self, candidate: Candidate) -> Tensor:
        """(1, T, D): what a candidate changes of the weight."""
        (rank,) = candidate.ranks
        return (self.left[:, :rank] @ self.right[:rank] - self.weight)[None]


@dataclass
class Fits:
    """Of the ``kernels`` (groups, T, C, *taps) of a layer.

    Args:
        kernels: of a layer, one for each of its groups.
        moments: (groups, D, D) of its inputs, or None: the weight alone counts.
        metric: what an error of its outputs costs, if known.
    """

    kernels: Tensor
    moments: Tensor | tuple[Sketch, ...] | None = None
    metric: Metric | None = None
    _made: dict[tuple[str, int], Fitting] = field(default_factory=dict, init=False, repr=False)
    _sizes: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _targets: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        whole = self.kernels if self.kernels[0, 0].numel() > WIDE else self.kernels.double()
        root = None if self.metric is None else self.metric.root.to(whole.dtype)
        self.scaled = whole if root is None else torch.einsum("gts,gs...->gt...", root, whole)

    def errors(self, method: str, candidates: Sequence[Ranks]) -> list[float]:
        """Relative squared errors of a whole layer: those of its groups, by their share of the whole."""
        total, errors = 0.0, torch.zeros(len(candidates), dtype=torch.float64)
        for group, kernel in enumerate(self.scaled):
            size = self._size(group)
            if size > 0:
                errors += size * torch.tensor(self._of_group(method, group, kernel, candidates), dtype=torch.float64)
            total += size
        if not (math.isfinite(total) and bool(errors.isfinite().all())):
            raise FloatingPointError(f"the errors of {method} are not finite")
        return (errors / total).tolist() if total else [0.0] * len(candidates)

    def losses(self, candidates: Sequence[Candidate]) -> list[float] | None:
        """What each of ``candidates`` costs at the model's output, of a layer whose positions count each for itself.

        Half of tr(B (W - W') S (W - W')^T) with the moments S of its inputs and B of its outputs' gradients, for all
        ranks from the spectrum that their errors come from. None without moments and a metric of a known level, or for
        layers of several groups.
        """
        known = None if self.metric is None or self.moments is None else self.metric.level
        if known is None or len(self.kernels) > 1:
            return None
        size = self._size(0)
        return [float(known[0]) / 2 * candidate.error * size for candidate in candidates]

    def sliced(self, rank: int) -> Sliced:
        """All SVDs of a layer without groups up to a rank, from the spectrum that their errors come from.

        Raises:
            LinAlgError, ArithmeticError: the numbers have no answer.
        """
        own = self._fitting("svd", 0)
        assert isinstance(own, Principal)
        basis = own.basis_of(rank).to(own.matrix.dtype)
        left = basis if self.metric is None else self.metric.inverse[0].to(basis.dtype) @ basis
        return Sliced(self.kernels[0].flatten(1), left.float(), (basis.T @ own.matrix).float())

    def changes(self, chosen: Sequence[Candidate]) -> Tensor | Components:
        """(candidates, groups, T, D), float32: what each candidate, fitted in a few steps, changes of the kernels.

        Of patches too long for a matrix of them, what SVDs change of the outputs.

        Raises:
            LinAlgError, ArithmeticError: the numbers have no answer.
        """
        if isinstance(self.moments, tuple):
            return self._components(chosen)
        changes = torch.stack([self.change(candidate) for candidate in chosen])
        if not bool(changes.isfinite().all()):
            raise FloatingPointError("what candidates change is not finite")
        return changes

    def _components(self, chosen: Sequence[Candidate]) -> Components:
        """What each SVD leaves out of the outputs; beyond the known components by the errors' ratio."""
        own = self._fitting("svd", 0)
        assert isinstance(own, Principal)
        basis, ranks = own.basis.float(), [candidate.ranks[0] for candidate in chosen]
        kept = tuple(min(rank, basis.shape[1]) for rank in ranks)
        ends = self.errors("svd", [(rank,) for rank in kept])
        scales = torch.tensor([c.error / end if end > 0 else 1.0 for c, end in zip(chosen, ends, strict=True)])
        if self.metric is None:
            return Components(basis.T, basis.T, kept, scales)
        root, inverse = self.metric.root[0].float(), self.metric.inverse[0].float()
        return Components(basis.T @ inverse.T, basis.T @ root, kept, scales)

    @property
    def most_scored(self) -> int:
        """How many candidates are worth scoring."""
        few = self.kernels[0, 0].numel() > WIDE and not isinstance(self.moments, tuple)
        return MOST_WIDE_SCORED if few else MAX_SCORED

    def scored(self, chosen: Sequence[Candidate]) -> list[Candidate]:
        """Those whose loss can be worked out."""
        return [one for one in chosen if one.method == "svd" or not isinstance(self.moments, tuple)]

    def _of_group(self, method: str, group: int, kernel: Tensor, candidates: Sequence[Ranks]) -> list[float]:
        if self.moments is None:
            return DECOMPOSITIONS[method].errors(kernel, candidates)
        return self._fitting(method, group).errors(candidates)

    def _size(self, group: int) -> float:
        if group not in self._sizes:
            kernel = self.scaled[group]
            size = squared_norm(kernel) if self.moments is None else float(self._squared_outputs(group))
            self._sizes[group] = size
        return self._sizes[group]

    def _squared_outputs(self, group: int) -> Tensor:
        assert self.moments is not None
        kernel, moments = self.scaled[group], self.moments[group]
        if isinstance(moments, Sketch):
            return squared_outputs(kernel, moments)
        return (self._target(group) * kernel.flatten(1).to(moments.dtype)).sum()

    def _target(self, group: int) -> Tensor:
        """(T, D): W S, which all methods need."""
        if group not in self._targets:
            assert self.moments is not None
            moments = self.moments[group]
            self._targets[group] = self.scaled[group].flatten(1).to(moments.dtype) @ moments
        return self._targets[group]

    def _fitting(self, method: str, group: int) -> Fitting:
        if (method, group) not in self._made:
            assert self.moments is not None
            moments = self.moments[group]
            target = None if isinstance(moments, Sketch) else self._target(group)
            made = fitting(DECOMPOSITIONS[method], self.scaled[group], moments, target)
            self._made[method, group] = made
        return self._made[method, group]

    def change(self, candidate: Candidate) -> Tensor:
        """(groups, T, D): of one candidate, float32."""
        return stacked([self._change_of(candidate, group) for group in range(len(self.kernels))])

    def _change_of(self, candidate: Candidate, group: int) -> Tensor:
        """(T, D): of one group; nothing where its kernel is all zeros."""
        kernel, method = self.kernels[group], DECOMPOSITIONS[candidate.method]
        if not bool(kernel.any()):
            return kernel.flatten(1).float()
        if self.moments is None:
            reached = method.reconstruct(method.factors(kernel, candidate.ranks)).flatten(1)
        else:
            reached = self._fitting(candidate.method, group).reached(
                candidate.ranks, WIDE_STEPS if kernel[0].numel() > WIDE else SCORED_STEPS
            )
            if self.metric is not None:
                inverse = self.metric.inverse[group]
                single = torch.float32 in {inverse.dtype, reached.dtype}
                reached = inverse.float() @ reached.float() if single else inverse @ reached
        matrix = kernel.flatten(1).to(reached.dtype)
        alone = reached.untyped_storage().data_ptr() != kernel.untyped_storage().data_ptr()
        return (reached.sub_(matrix) if alone else reached - matrix).float()
