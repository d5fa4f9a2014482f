"""Sums of rank-one terms (CP) that stay usable: the fit behind ``cp3`` and ``cp4``.

A tensor of N modes is written as the sum of R terms, each an outer product of N vectors; the terms are held as N
matrices (mode size, R). Kolda & Bader 2009 name it CP.

The best such sum often does not exist: terms grow without bound and cancel, and a network holding them cannot be
trained further. Phan et al., "Stable low-rank tensor decomposition for compression of convolutional neural network"
(ECCV 2020, arXiv 2008.05441) measure this by the *sensitivity*, the expected squared change of the tensor, to first
order, for noise of variance 1 on every number of every factor, and repair it by *error-preserving correction*: least
sensitivity with the error held within a bound. From them are the sensitivity, the correction and its solution one mode
at a time, where the penalty of the sensitivity is a diagonal added to the Gram matrix and its weight is the one that
meets the bound.

Ours is the start, which is deterministic and gives a bound of the error for every rank that never grows with it:

- *Slices.* A tensor cut along all but its two largest modes, each of those rotated to its principal axes, is a sum of
  orthogonal terms, one singular vector pair of one slice each. Taken by size they give an error for every rank, which
  falls to 0 at the product of all mode sizes but the largest: there the terms are exact and nothing is fitted.
- *Anchors.* At a few fixed ranks all terms are fitted by a few alternating least squares, starting at the anchor before
  and the largest slice terms of what it leaves over. The slices of its own residual extend its error to higher ranks.
- A wanted rank starts at whichever of these is best there, and is then fitted and corrected; neither may end worse than
  the start. Two neighbouring ranks may still end in different local optima, so the bound is monotone strictly, the
  error itself in all but a few steps from one rank to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from math import prod

import torch
from torch import Tensor

from edgecompress.decompositions.base import leading_eigenvectors, squared_norm

Terms = tuple[Tensor, ...]
"""One matrix (mode size, number of terms) for each mode."""

SLACK = 0.005
"""The correction may raise the squared error by this part of itself: half a percent is noise beside fine-tuning."""

EXACT = 1e-12
"""Relative squared errors below it are rounding (float32 weights hold 1e-14), so the correction may go up to it."""

PROXIMITY = 1e-10
"""Weight of the old factor in a least squares step, relative to the Gram matrix: no step fails on a singular one."""

ANCHORS = (24, 12, 6, 4, 3)
"""The exact rank divided by these: from where a chain is tiny to where it hardly saves anything."""

ANCHOR_SWEEPS = 4
"""Alternations at each anchor: few, since predictions need them for every layer (64 x 64 x 3 x 3: below 0.1 s)."""

ANCHOR_WORK = 1e9
"""An anchor whose rank times the tensor's size is above it is left out: it would take seconds."""

SWEEPS = 100
"""Alternations at the wanted rank: as many as the usual default, from a better start."""

SWEEP_WORK = 1e11
"""Large tensors get fewer, down to ``LEAST_SWEEPS``: these many multiplications of rank and size in all."""

LEAST_SWEEPS = 20

BLOCK = 10
"""The error is looked at after so many alternations."""

CONVERGED = 1e-3
"""A block that takes less than this part off the squared error is the last."""

CORRECTIONS = 30
"""Alternations of the correction: the sensitivity falls by half and still falls, slowly."""

CORRECTION_WORK = 4e9
"""High ranks get fewer, down to ``LEAST_CORRECTIONS``: this many times rank cubed, an eigenvalue problem each."""

LEAST_CORRECTIONS = 2

PENALTIES, GRID, REFINEMENTS = (-60.0, 20.0), 201, 2
"""Natural logarithms of the least and the greatest penalty, relative to the largest eigenvalue, and how finely they are
searched: to 0.2 % of the penalty, which is 1e-5 of the error."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Terms, and the slice terms of what they leave over (``rest``: largest first, ``energy`` their squared norms)."""

    terms: Terms
    rest: Terms
    energy: Tensor

    @property
    def rank(self) -> int:
        """The number of terms without ``rest``."""
        return self.terms[0].shape[1]

    def extended(self, rank: int) -> Terms:
        """These terms and the largest of ``rest``, ``rank`` in all."""
        more = rank - self.rank
        return tuple(torch.cat((own, new[:, :more]), 1) for own, new in zip(self.terms, self.rest, strict=True))

    def error(self, rank: int) -> float:
        """Squared error when extended to ``rank``."""
        return float(self.energy[rank - self.rank :].sum())


def exact_rank(shape: Sequence[int]) -> int:
    """A rank at which every tensor of this shape is the sum of its slice terms."""
    return prod(shape) // max(shape)


def terms_of(tensor: Tensor, rank: int) -> Terms:
    """``rank`` balanced terms whose sum is close to ``tensor``; exact at :func:`exact_rank`."""
    fits = path(tensor, 0 if rank >= exact_rank(tensor.shape) else rank)
    best = min(fits, key=lambda fit: fit.error(rank))
    start, worst = balanced(best.extended(rank)), best.error(rank)
    if worst <= EXACT * squared_norm(tensor):
        return start
    return balanced(corrected(tensor, fitted(tensor, start, sweeps_for(tensor, rank)), worst))


def fitted(tensor: Tensor, terms: Terms, sweeps: int) -> Terms:
    """Terms of less error by alternating least squares, until it hardly falls or is down to rounding."""
    error, exact = squared_norm(tensor - summed(terms)), EXACT * squared_norm(tensor)
    for _ in range(0, sweeps, BLOCK):
        before, terms = error, alternated(tensor, terms, BLOCK, least_squares)
        error = squared_norm(tensor - summed(terms))
        if error <= exact or error > (1 - CONVERGED) * before:
            break
    return terms


def error_bounds(tensor: Tensor, ranks: Sequence[int]) -> list[float]:
    """Relative squared errors that :func:`terms_of` reaches or betters, never growing with the rank."""
    fits, total = path(tensor, max(ranks, default=0)), squared_norm(tensor)
    return [min(fit.error(rank) for fit in fits if fit.rank <= rank) / total for rank in ranks]


def path(tensor: Tensor, rank: int) -> list[Fit]:
    """The fits at no rank and at every anchor up to ``rank``, each started from the one before it."""
    fits = [left_over(tensor, tuple(tensor.new_zeros(size, 0) for size in tensor.shape))]
    for anchor in anchors(tensor.shape):
        if anchor <= rank:
            start = balanced(fits[-1].extended(anchor))
            fits.append(left_over(tensor, alternated(tensor, start, ANCHOR_SWEEPS, least_squares)))
    return fits


def anchors(shape: Sequence[int]) -> list[int]:
    """The ranks of the path, ascending."""
    ranks = sorted({exact_rank(shape) // part for part in ANCHORS} - {0})
    return [rank for rank in ranks if rank * prod(shape) <= ANCHOR_WORK]


def sweeps_for(tensor: Tensor, rank: int) -> int:
    """How often to alternate at ``rank``."""
    return max(LEAST_SWEEPS, min(SWEEPS, int(SWEEP_WORK / (rank * tensor.numel()))))


def corrections_for(rank: int) -> int:
    """How often to alternate the correction at ``rank``."""
    return max(LEAST_CORRECTIONS, min(CORRECTIONS, int(CORRECTION_WORK / rank**3)))


def corrected(tensor: Tensor, terms: Terms, worst: float) -> Terms:
    """Terms of less sensitivity and hardly more error, at most ``worst`` (Phan's correction, one mode at a time)."""
    total, error = squared_norm(tensor), squared_norm(tensor - summed(terms))
    bound = max(error, min(worst, max((1 + SLACK) * error, EXACT * total)))
    return alternated(tensor, terms, corrections_for(terms[0].shape[1]), least_sensitive(total, bound))


def left_over(tensor: Tensor, terms: Terms) -> Fit:
    """A fit with the slice terms of its residual."""
    return Fit(terms, *slice_terms(tensor - summed(terms)))


def summed(terms: Terms) -> Tensor:
    """The tensor that the terms stand for."""
    first_mode, *others = terms
    rows = others[0]
    for other in others[1:]:
        rows = (rows.unsqueeze(-2) * other).flatten(0, -2)
    return (first_mode @ rows.T).reshape([mode.shape[0] for mode in terms])


def slice_terms(tensor: Tensor) -> tuple[Terms, Tensor]:
    """Orthogonal terms that sum to ``tensor``, largest first, and their squared norms."""
    *sliced, rows, columns = sorted(range(tensor.dim()), key=lambda mode: tensor.shape[mode])
    bases = {mode: principal_axes(tensor, mode) for mode in sliced}
    for mode, basis in bases.items():
        tensor = torch.tensordot(tensor, basis, dims=([mode], [0])).movedim(-1, mode)
    counts = [tensor.shape[mode] for mode in sliced]
    slices = tensor.permute(*sliced, rows, columns).flatten(0, -3)
    _, left = leading_eigenvectors(slices @ slices.mT)
    right = left.mT @ slices
    energy, order = right.pow(2).sum(-1).flatten().sort(descending=True, stable=True)
    places = torch.unravel_index(order // left.shape[-1], counts)
    found = {mode: bases[mode][:, place] for mode, place in zip(sliced, places, strict=True)}
    found[rows] = left.mT.flatten(0, 1)[order].T
    found[columns] = right.flatten(0, 1)[order].T
    return tuple(found[mode] for mode in range(tensor.dim())), energy


def principal_axes(tensor: Tensor, mode: int) -> Tensor:
    """Orthonormal columns: the left singular vectors of the unfolding along ``mode``."""
    unfolded = tensor.movedim(mode, 0).flatten(1)
    return leading_eigenvectors(unfolded @ unfolded.T)[1]


def balanced(terms: Terms) -> Terms:
    """The same sum with each term's norm spread evenly over its modes: as a start of training, like svd's root."""
    norms = torch.stack([mode.norm(dim=0) for mode in terms])
    even = norms.log().mean(0).exp()
    return tuple(mode * torch.where(norm > 0, even / norm, 0) for mode, norm in zip(terms, norms, strict=True))


def without(items: Sequence[Tensor], *indices: int) -> Tensor:
    """The elementwise product of all ``items`` but those at ``indices``."""
    return reduce(torch.mul, [item for index, item in enumerate(items) if index not in indices])


Update = Callable[[list[Tensor], int, Tensor, Tensor], Tensor]
"""A new factor from the terms, the mode, the tensor projected on all other modes, and their Gram matrix."""


def alternated(tensor: Tensor, terms: Terms, sweeps: int, update: Update) -> Terms:
    """Each mode in turn replaced by its ``update``, ``sweeps`` times over.

    The tensor is multiplied by a factor of its first two modes alone, once each a sweep: what is left to sum over is
    smaller, and no Khatri-Rao product of a large mode is formed.
    """
    by_mode = [tensor.movedim(mode, -1).contiguous() for mode in (0, 1)]
    current, grams = list(terms), [mode.T @ mode for mode in terms]
    for _ in range(sweeps):
        for summed_first, modes in ((1, [0]), (0, range(1, len(terms)))):
            partial = by_mode[summed_first] @ current[summed_first]
            for mode in modes:
                projected = collapsed(partial, current, (mode, summed_first))
                current[mode] = update(current, mode, projected, without(grams, mode))
                grams[mode] = current[mode].T @ current[mode]
    return tuple(current)


def collapsed(partial: Tensor, factors: Sequence[Tensor], kept: tuple[int, int]) -> Tensor:
    """(sizes..., R) summed against every factor but those of ``kept``, its own mode and one it does not have."""
    own, absent = kept
    present = [mode for mode in range(len(factors)) if mode != absent]
    partial = partial.movedim(present.index(own), 0)
    for mode in reversed([mode for mode in present if mode != own]):
        partial = (partial * factors[mode]).sum(-2)
    return partial


def least_squares(terms: list[Tensor], mode: int, projected: Tensor, gram: Tensor) -> Tensor:
    """The factor of least error, drawn a trace towards the one it replaces."""
    scale = positive(gram.diagonal()).rsqrt()
    system = scale[:, None] * gram * scale
    system.diagonal().add_(PROXIMITY)
    wanted = projected * scale + PROXIMITY * terms[mode] / scale
    return torch.cholesky_solve(wanted.T, torch.linalg.cholesky(system)).T * scale


def positive(values: Tensor) -> Tensor:
    """``values`` kept off 0, for terms that are nought."""
    return values.clamp_min(float(values.max()) * 1e-30 + torch.finfo(values.dtype).tiny)


def least_sensitive(total: float, bound: float) -> Update:
    """The factor of least sensitivity among those with a squared error of at most ``bound``; ``total`` is |W|^2."""

    def update(terms: list[Tensor], mode: int, projected: Tensor, gram: Tensor) -> Tensor:
        scale = positive(penalties(terms, mode)).rsqrt()
        values, axes = torch.linalg.eigh(scale[:, None] * gram * scale)
        values = values.clamp_min(0)
        turned = (projected * scale) @ axes
        weight = heaviest(values, turned.pow(2).sum(0), total - bound)
        return terms[mode] if weight is None else (turned / (values + weight)) @ axes.T * scale

    return update


def penalties(terms: Sequence[Tensor], mode: int) -> Tensor:
    """What the sensitivity holds against the squared norm of each column of the factor of ``mode``."""
    squares = [factor.pow(2).sum(0) for factor in terms]
    others = [other for other in range(len(terms)) if other != mode]
    return torch.stack([len(terms[other]) * without(squares, mode, other) for other in others]).sum(0)


def heaviest(values: Tensor, energy: Tensor, explained: float) -> Tensor | None:
    """The largest penalty that leaves ``explained`` of the tensor's squared norm explained; None if hardly any does.

    With a penalty p it is the sum of energy (values + 2 p) / (values + p)^2, which falls with p: found on a grid of
    logarithms, refined around the last that will do.
    """
    low, high, best = *PENALTIES, None
    for _ in range(REFINEMENTS):
        grid = torch.linspace(low, high, GRID, dtype=values.dtype)
        weights = grid.exp() * values[-1]
        shifted = values + weights[:, None]
        enough = (energy * (shifted + weights[:, None]) / shifted.square()).sum(1) >= explained
        count = int(enough.long().cumprod(0).sum())
        if count in (0, GRID):
            return best
        best, low, high = weights[count - 1], float(grid[count - 1]), float(grid[count])
    return best
