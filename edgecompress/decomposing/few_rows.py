"""Least squares for a Linear layer with more inputs than it is given patches: by the patches, not by their moments.

The weight of ridge regression towards the dense one is the dense one plus E^T (X X^T + n p I)^-1 X for the patches X
(n, D) and what the dense weight leaves of the targets E (n, T): an n x n system in place of a D x D one, the dual form
(Saunders, Gammerman & Vovk 1998). Pull and share are chosen as in ``least_squares``.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from edgecompress.calibrating.moments import MOST_MATRIX, MOST_MATRIX_BYTES, MOST_ROWS, STEADY, moment_bytes
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.calibrating.shrinking import share as shrunk_share
from edgecompress.decomposing.least_squares import (
    FEW,
    PARTS,
    PULLS,
    RIDGE,
    TOGETHER,
    Parts,
    Solution,
    best_share,
)
from edgecompress.decompositions.base import is_table
from edgecompress.decompositions.kernels import kernel_shape, weight_of
from edgecompress.decompositions.sketch import Sketch


def fittable(layer: nn.Module, method: str) -> bool:
    """Can a chain of ``method`` be fitted to the inputs of ``layer``? If not, it gets the factors of its weight."""
    return not is_table(layer) and (moment_bytes(layer) <= MOST_MATRIX_BYTES or _by_rows(layer, method))


def sums_of(layer: nn.Module, method: str, inputs: int, patches: int, *, own: bool) -> Parts | FewRows:
    """What sums up what ``layer`` is given for so many inputs, so many patches of a Linear layer, and has to give.

    ``own``: it has to give what it gives.
    """
    if _by_rows(layer, method):
        if patches < kernel_shape(layer)[1]:
            return FewRows(layer, 1, own=own)
        if moment_bytes(layer) > MOST_MATRIX_BYTES:
            return FewRows(layer, -(-patches // MOST_ROWS), own=own)
    return Parts(layer, inputs, own=own)


def _by_rows(layer: nn.Module, method: str) -> bool:
    """Alone ``svd`` can be fitted to patches as they are."""
    return type(layer) is nn.Linear and method == "svd" and layer.in_features > MOST_MATRIX


class FewRows:
    """What a Linear layer is given and has to give, patch by patch.

    ``own``: it has to give what it gives, so that its weight is the answer. Of every ``apart`` patches one is kept.
    """

    def __init__(self, layer: nn.Module, apart: int, *, own: bool = False) -> None:
        self.layer, self.apart, self.own = layer, apart, own
        self.of: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, start: int, size: int, given: Tensor, target: Tensor, mask: Tensor | None = None) -> None:
        """``size`` inputs, the first of them the one with index ``start``; each may be several rows. As ``Parts``."""
        each = max(1, given.shape[:-1].numel() // size)
        x, y = given.flatten(0, -2)[:: self.apart], target.flatten(0, -2)[:: self.apart]
        inputs = start + torch.arange(0, given.shape[:-1].numel(), self.apart) // each
        said = mask is not None and mask.shape == given.shape[:-1]
        kept = mask.flatten()[:: self.apart].cpu() if mask is not None and said else slice(None)
        self.of.append((x.cpu()[kept], y.cpu()[kept], (inputs // TOGETHER % PARTS)[kept]))

    def solution(self, metric: Metric | None, *, centred: bool) -> Solution:
        """As :meth:`~edgecompress.decomposing.least_squares.Parts.solution`, the moments as a sketch of the patches."""
        x, y, parts = (torch.cat(of) for of in zip(*self.of, strict=True))
        mean, mean_rows = x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)
        if centred:
            x, y = x - mean.to(x), y - mean_rows.to(y)
        dense, level = weight_of(self.layer).detach().cpu(), float(x.square().mean(dtype=torch.float64))
        around = float(mean.square().mean()) if centred else 0.0
        if not level > STEADY * around:
            return self._solution(dense, Sketch(torch.zeros_like(x[:1]), 1.0), mean, mean_rows)
        alike = (x @ x.T).double()
        unsure = FEW * x.shape[1] / len(x) ** 2 * around
        weight = dense
        if not self.own:
            left = (y - x @ dense.T).double()
            pull, share = _chosen(alike, left, parts, level, metric)
            weight = torch.addmm(dense, _dual(alike, left, pull * level + unsure).T.to(x), x, alpha=share)
        moved = _distrust(alike, parts, level**2 * x.shape[1])
        ridge = (moved + max(RIDGE, FEW * x.shape[1] / len(x))) * level + unsure
        return self._solution(weight, Sketch(x * ((1 - moved) / len(x)) ** 0.5, ridge), mean, mean_rows)

    @staticmethod
    def _solution(weight: Tensor, second: Sketch, mean: Tensor, mean_rows: Tensor) -> Solution:
        return Solution(weight[None], (second,), mean[None], mean_rows[None])


def _dual(alike: Tensor, left: Tensor, pull: float) -> Tensor:
    """(n, T): what the patches are multiplied by for the step from the dense weight."""
    system = alike + len(alike) * pull * torch.eye(len(alike), dtype=alike.dtype)
    return torch.cholesky_solve(left, torch.linalg.cholesky(system))


def _chosen(alike: Tensor, left: Tensor, parts: Tensor, level: float, metric: Metric | None) -> tuple[float, float]:
    """The pull and the share of the step that are best on the parts, each left out in turn."""
    each = [parts == part for part in parts.unique()]
    if len(each) < 2:
        return RIDGE, 1.0

    @cache
    def tried(index: int) -> tuple[float, float]:
        slope, curve = torch.zeros(2, dtype=torch.float64)
        for held in each:
            steps = _dual(alike[~held][:, ~held], left[~held], PULLS[index] * level)
            changed = alike[held][:, ~held] @ steps
            weighed = changed if metric is None else changed @ metric.matrix[0].to(changed)
            slope += (weighed * left[held]).sum() / held.sum()
            curve += (weighed * changed).sum() / held.sum()
        return best_share(float(slope), float(curve))

    best = max(range(len(PULLS)), key=tried)
    return PULLS[best], tried(best)[1]


def _distrust(alike: Tensor, parts: Tensor, even: float) -> float:
    """How far the moments are drawn towards that multiple of the identity whose square is ``even``.

    By how far those of the parts differ.
    """
    each = [parts == part for part in parts.unique()]
    if len(each) < 2:
        return 0.0
    count, whole = len(each), alike.square().sum() / len(alike) ** 2
    off = torch.zeros(1, dtype=torch.float64)
    for held in each:
        own, cross = alike[held][:, held].square().sum() / held.sum() ** 2, alike[held].square().sum()
        off += own - 2 * cross / (held.sum() * len(alike)) + whole
    return float(shrunk_share(off.clamp_min(0) / (count * (count - 1)), (whole - even).clamp_min(0)[None]))
