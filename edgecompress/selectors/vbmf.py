"""EVBMF: the rank at which a matrix's singular values sink into its noise, found analytically.

Empirical variational Bayesian matrix factorization, Nakajima, Sugiyama, Babacan & Tomioka, JMLR 14 (2013) 1-37: its
global solution in closed form. Kim et al. 2016 (arXiv 1511.06530) take Tucker-2 ranks from it. No budget can be
asked for: the weights alone decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from edgecompress.plans import Cost
from edgecompress.selectors.base import Choice, LayerCandidates, cheapest, of_unfoldings

if TYPE_CHECKING:
    from torch import Tensor

GRID = 64
"""Noise levels tried before the best is refined: the free energy can have several minima."""

NOISELESS = 1e-12
"""Noise below this share of the mean square is rounding: the rank is exact, and the free energy has no minimum."""


@dataclass(frozen=True, slots=True)
class Vbmf:
    """Every rank is that of EVBMF on the method's own unfolding, at least 1."""

    name: str = "vbmf"
    summary: str = "ranks where EVBMF finds the noise of the weights; no budget; Nakajima et al. 2013, Kim et al. 2016"
    weighs_losses: bool = False

    def select(self, layers: Sequence[LayerCandidates], _total: Cost) -> dict[str, Choice]:
        """Each layer on its own, by the cheapest method at its EVBMF ranks."""
        return {
            layer.name: cheapest(layer, of_unfoldings(layer, evbmf_rank), "its EVBMF ranks save nothing")
            for layer in layers
        }


def evbmf_rank(matrix: Tensor) -> int:
    """The number of components of ``matrix`` (any orientation) that stand out of its noise, at least 1.

    Rows and columns of zeros (pruned channels) hold no noise: they do not count.
    """
    import torch

    from edgecompress.decompositions.base import gram

    live = matrix.detach().double()[matrix.any(1)][:, matrix.any(0)]
    if not live.numel():
        return 1
    squares = torch.linalg.eigvalsh(gram(live)).flip(0).clamp_min(0)
    return max(1, int((squares > _least_square(squares, max(live.shape))).sum()))


def _least_square(squares: Tensor, columns: int) -> float:
    """The squared singular value above which a component is kept; ``squares`` descending, L <= M = ``columns``."""
    ratio = len(squares) / columns
    return columns * noise_variance(squares, columns) * threshold(ratio)[1]


@cache
def threshold(ratio: float) -> tuple[float, float]:
    """(tau, x) for a matrix of L / M = ``ratio``: components with gamma^2 > M sigma^2 x are kept.

    The exact root of Phi(tau) + Phi(tau / ratio) = 0, Phi(z) = ln(1 + z) / z - 1/2 (the usual 2.5129 sqrt(ratio) is
    low by 11 % at ratio 0.01).
    """
    from scipy.optimize import brentq

    def phi(z: float) -> float:
        return math.log1p(z) / z - 0.5

    tau = float(brentq(lambda t: phi(t) + phi(t / ratio), 1e-3 * math.sqrt(ratio), 10 * math.sqrt(ratio)))
    return tau, (1 + tau) * (1 + ratio / tau)


def noise_variance(squares: Tensor, columns: int) -> float:
    """The noise variance of least free energy; ``squares`` are all squared singular values, descending."""
    import torch
    from scipy.optimize import minimize_scalar

    lowest, highest = _bounds(squares, columns)
    if lowest <= NOISELESS * highest:
        return NOISELESS * highest
    if not lowest < highest:
        return highest
    grid = torch.logspace(math.log10(lowest), math.log10(highest), GRID, dtype=torch.float64).tolist()
    energies = [_free_energy(variance, squares, columns) for variance in grid]
    best = energies.index(min(energies))
    around = (grid[max(0, best - 1)], grid[min(GRID - 1, best + 1)])
    found = minimize_scalar(_free_energy, bounds=around, args=(squares, columns), method="bounded")
    return float(found.x) if found.fun < energies[best] else grid[best]


def _bounds(squares: Tensor, columns: int) -> tuple[float, float]:
    """Between which the noise variance lies (Nakajima et al. 2013, theorem 9)."""
    rows = len(squares)
    ratio = rows / columns
    most = min(math.ceil(rows / (1 + ratio)) - 1, rows - 1)
    tail = squares[most:]
    lowest = max(float(tail[0]) / (columns * threshold(ratio)[1]), float(tail.mean()) / columns)
    return lowest, float(squares.sum()) / (rows * columns)


def _free_energy(variance: float, squares: Tensor, columns: int) -> float:
    """The free energy as a function of the noise variance, up to a constant."""
    import torch

    ratio = len(squares) / columns
    x = squares / (columns * variance)
    above = x[x > threshold(ratio)[1]]
    centred = above - (1 + ratio)
    tau = (centred + (centred.square() - 4 * ratio).sqrt()) / 2
    spread = x - x.clamp_min(torch.finfo(x.dtype).tiny).log()
    gain = (tau + 1).log() + ratio * (tau / ratio + 1).log() - tau
    return float(spread.sum() + gain.sum())
