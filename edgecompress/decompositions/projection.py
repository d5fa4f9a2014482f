"""Factors that fit a layer's outputs instead of its weight: least squares in the metric of its input patches.

With the second moments S of the patches u, the mean squared error of the outputs is
|| (W - W') S^(1/2) ||^2 = tr((W - W') S (W - W')^T). Every form here is linear in its last factors: they act on
features F^T u that the first factors (the *head*) make of the patch. Given the head, the last factors are known
exactly: least squares, or reduced-rank regression (Izenman 1975) where two factors follow. What is left is a smooth
problem in the head alone, solved by L-BFGS from a closed-form start: variable projection (Golub & Pereyra 1973),
which needs far fewer steps than alternating over all factors as arXiv 2511.04494 does.

With F the filters (D, q) of the head and B the tail (T, q), all that is needed of a layer are W S, once, and S F: the
squared error is tr(W S W^T) - 2 <B, W S F> + <B F^T S F, B>, its gradient by F is 2 (S F B^T B - (W S)^T B). No product
of all of W' with S is formed. All is worked out in the precision of S.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from edgecompress.decompositions.base import Decomposition, Factors, kept_energy, leading_eigenvectors
from edgecompress.decompositions.sketch import WIDE, Sketch
from edgecompress.plans import Ranks

STEPS = 20
"""L-BFGS steps: 5 come within 2 %, 20 within 0.5 %, of the error that 100 reach on the layers of ResNet-20."""

WIDE_STEPS = 3
"""Of patches wider than ``WIDE``, where each takes seconds."""

NEGLIGIBLE = {torch.float64: 1e-12, torch.float32: 1e-6}
"""Eigenvalues below this share of the largest are taken for zero."""

Head = tuple[Tensor, ...]
Starts = Callable[[Ranks], Head]


class Form(Protocol):
    """A decomposition as head and tail.

    ``damping`` is added to the features' second moments, as a share of each: terms that cancel each other cost by it.
    """

    @property
    def damping(self) -> float:
        """0 where the tail cannot grow without bound."""

    def starts(self, kernel: Tensor, moments: Tensor) -> Starts:
        """Closed-form starts for any ranks, worked out once for all of them where smaller ones are parts of larger."""

    def features(self, rows: Tensor, head: Head) -> Tensor:
        """(n, D) patches to (n, q) features, linear; of many patches quickest where they lie as columns."""

    def filters(self, head: Head, shape: Sequence[int]) -> Tensor:
        """(q, D): the features as inner products with patches of this shape."""

    def nest(self, ranks: Ranks, /) -> Hashable:
        """Starts of equal ``nest`` are leading parts of the largest one's, and so are their features."""

    def tail_rank(self, ranks: Ranks, /) -> int | None:
        """The rank of the tail, or None where it is one factor without a rank of its own."""

    def assembled(self, head: Head, tail: Tail) -> Factors:
        """The chain's kernels."""

    def reconstruct(self, factors: Factors) -> Tensor:
        """The kernel that the factors stand for."""


@dataclass(frozen=True, slots=True)
class Tail:
    """The last factors: ``coefficients`` (T, q), or ``basis`` (T, r) times ``coefficients`` (r, q)."""

    coefficients: Tensor
    basis: Tensor | None = None

    def projected(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """(T, n) each, as far as the basis reaches: (r, n)."""
        assert self.basis is not None
        return tuple(self.basis.T @ of for of in rows)


def fit(form: Form, kernel: Tensor, moments: Tensor, ranks: Ranks, steps: int) -> Factors:
    """Factors of least output error near the closed-form start, float64; patches that are wide get fewer steps."""
    steps = min(steps, WIDE_STEPS) if kernel[0].numel() > WIDE else steps
    return tuple(factor.double() for factor in Problem(form, kernel, moments).factors(ranks, steps))


def output_errors(form: Form, kernel: Tensor, moments: Tensor, candidates: Sequence[Ranks]) -> list[float]:
    """Relative squared output error of the closed-form start at each of ``candidates``."""
    return Problem(form, kernel, moments).errors(candidates)


class Problem:
    """One kernel (T, C, *taps) and the moments of its patches, for fits of one form at any ranks.

    What does not depend on the ranks is worked out once, and nested ranks share one factorization.
    """

    def __init__(self, form: Form, kernel: Tensor, moments: Tensor, target: Tensor | None = None) -> None:
        self.form, self.moments = form, moments
        self.kernel = kernel.to(moments.dtype)
        self.weight = self.kernel.flatten(1)
        self.target = self.weight @ moments if target is None else target
        """(T, D): W S, what the layer's outputs have to do with its patches."""

    @cached_property
    def starts(self) -> Starts:
        """The closed-form starts."""
        return self.form.starts(self.kernel, self.moments)

    @cached_property
    def total(self) -> float:
        """tr(W S W^T): the mean squared outputs."""
        return float((self.target * self.weight).sum())

    def factors(self, ranks: Ranks, steps: int) -> Factors:
        """Factors after ``steps`` of L-BFGS over the head."""
        head = self.starts(ranks)
        if steps:
            head = _descended(head, lambda free: self._loss(free, ranks), steps)
        return self.form.assembled(head, self._tail(self._seen(head), ranks))

    def reached(self, ranks: Ranks, steps: int) -> Tensor:
        """(T, D): the kernel that the factors after ``steps`` stand for."""
        reached: Tensor = self.form.reconstruct(self.factors(ranks, steps)).flatten(1)
        return reached

    def errors(self, candidates: Sequence[Ranks]) -> list[float]:
        """Relative squared output error of the start at each of ``candidates``."""
        nests: dict[Hashable, list[Ranks]] = {}
        for ranks in candidates:
            nests.setdefault(self.form.nest(ranks), []).append(ranks)
        kept: dict[Ranks, float] = {}
        for members in nests.values():
            kept |= self._kept(members)
        return [max(0.0, 1 - kept[ranks] / self.total) for ranks in candidates]

    def _kept(self, members: Sequence[Ranks]) -> dict[Ranks, float]:
        """What each explains of the outputs: the Cholesky factor of leading features is a leading block."""
        widths = {ranks: self._width(ranks) for ranks in members}
        seen = self._seen(self.starts(max(members, key=lambda ranks: widths[ranks])))
        factor, failed = torch.linalg.cholesky_ex(seen.damped)
        if len(members) > 1 and (failed or _singular(factor)):
            return {ranks: kept for one in members for ranks, kept in self._kept([one]).items()}
        if failed or _singular(factor):
            rows = _half_inverse(seen.damped) @ seen.cross.T
        else:
            rows = torch.linalg.solve_triangular(factor, seen.cross.T, upper=False)
        spectra: dict[int, Tensor] = {}
        kept = {}
        for ranks in members:
            rank, width = self.form.tail_rank(ranks), widths[ranks]
            if width not in spectra:
                spectra[width] = rows[:width].square().sum()[None] if rank is None else kept_energy(rows[:width])
            kept[ranks] = float(spectra[width][-1 if rank is None else min(rank, len(spectra[width])) - 1])
        return kept

    def _width(self, ranks: Ranks) -> int:
        return self.form.features(self.weight[:1], self.starts(ranks)).shape[1]

    def _seen(self, head: Head) -> _Seen:
        shared = self.form.features(self.moments.T, head)  # symmetric: forms need no copy of columns
        own = self.form.features(shared.T, head)
        damped = own + self.form.damping * own.diagonal().diag() if self.form.damping else own
        return _Seen(shared, self.form.features(self.target, head), own, damped)

    def _tail(self, seen: _Seen, ranks: Ranks) -> Tail:
        coefficients, rank = solved(seen.damped, seen.cross), self.form.tail_rank(ranks)
        if rank is None:
            return Tail(coefficients)
        explained = coefficients @ seen.cross.T
        basis = leading_eigenvectors((explained + explained.T) / 2)[1][:, :rank]
        return Tail(basis.T @ coefficients, basis)

    def _loss(self, free: Head, ranks: Ranks) -> Tensor:
        """The relative error, whose gradient by the head is that at the best tail: of the projected problem."""
        with torch.no_grad():
            seen = self._seen(free)
            tail = self._tail(seen, ranks)
            left = tail.coefficients
            outer, cross = (self.target, seen.cross) if tail.basis is None else tail.projected(self.target, seen.cross)
            inner = left @ seen.own
            value = (self.total - 2 * float((left * cross).sum()) + float((inner * left).sum())) / self.total
            slope = 2 / self.total * (left.T @ (left @ seen.shared.T - outer))
        filters = self.form.filters(free, self.kernel.shape[1:])
        through: Tensor = (slope * filters).sum()
        return through - through.detach() + value


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a head makes of the patches: S F (D, q), W S F (T, q), F^T S F (q, q), and that damped."""

    shared: Tensor
    cross: Tensor
    own: Tensor
    damped: Tensor


def _singular(factor: Tensor) -> bool:
    diagonal = factor.diagonal()
    return not float(diagonal.min() / diagonal.max()) ** 2 > NEGLIGIBLE[factor.dtype]


def _half_inverse(own: Tensor) -> Tensor:
    """(q, q): H with H^T H the pseudo-inverse of ``own``."""
    values, vectors = torch.linalg.eigh(own)
    kept = values > values[-1] * NEGLIGIBLE[own.dtype]
    half: Tensor = torch.where(kept, values, torch.ones_like(values)).rsqrt().mul(kept)[:, None] * vectors.T
    return half


def solved(own: Tensor, cross: Tensor) -> Tensor:
    """``cross`` times the (pseudo-)inverse of ``own``; Cholesky where it exists, ``eigh`` where it does not."""
    factor, failed = torch.linalg.cholesky_ex(own)
    if not failed and not _singular(factor):
        half_way = torch.linalg.solve_triangular(factor, cross.T, upper=False)  # cholesky_solve() copies the factor
        solved: Tensor = torch.linalg.solve_triangular(factor.T, half_way, upper=True).T
        return solved
    half = _half_inverse(own)
    inverted: Tensor = (cross @ half.T) @ half
    return inverted


def refined(method: Decomposition, kernel: Tensor, moments: Tensor, factors: Factors, steps: int) -> Factors:
    """All factors of a method without a head and tail of its own, by L-BFGS from ``factors``."""
    total, moments = squared_outputs(kernel, moments), moments.to(kernel.dtype)
    return _descended(factors, lambda free: squared_outputs(kernel - method.reconstruct(free), moments) / total, steps)


def squared_outputs(kernel: Tensor, moments: Tensor | Sketch) -> Tensor:
    """tr(W S W^T): the mean squared outputs of a kernel for inputs of second moments S."""
    weight = kernel.flatten(1).to(moments.dtype)
    if isinstance(moments, Sketch):
        return (weight @ moments.rows.T).square().sum() + (moments.level * weight.square()).sum()
    return ((weight @ moments) * weight).sum()


def relative_output_errors(
    method: Decomposition, kernel: Tensor, moments: Tensor, candidates: Sequence[Ranks]
) -> list[float]:
    """Relative squared output error of the factors that are best for the weight: estimates, not bounds."""
    total = squared_outputs(kernel, moments)
    each = (kernel - method.reconstruct(method.factors(kernel, ranks)) for ranks in candidates)
    return [float(squared_outputs(off, moments) / total) for off in each]


def _descended(
    start: tuple[Tensor, ...], loss: Callable[[tuple[Tensor, ...]], Tensor], steps: int
) -> tuple[Tensor, ...]:
    """``start`` after ``steps`` of L-BFGS on ``loss``."""
    free = tuple(part.clone(memory_format=torch.contiguous_format).requires_grad_() for part in start)
    optimizer = torch.optim.LBFGS(free, lr=1, max_iter=steps, history_size=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(free)
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(closure)
    return tuple(part.detach() for part in free)


def root_and_inverse(moments: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric square root of a moment matrix and the root's pseudo-inverse, by ``eigh``."""
    values, vectors = torch.linalg.eigh(moments)
    kept = values > values[-1] * NEGLIGIBLE[values.dtype]
    root = torch.where(kept, values, torch.zeros_like(values)).sqrt()
    inverse = torch.where(kept, 1 / root, torch.zeros_like(root))
    return (vectors * root) @ vectors.T, (vectors * inverse) @ vectors.T


def leading_directions(moments: Tensor, matrix: Tensor) -> Tensor:
    """Rows (d, d) whose inner products with an input of second moments (d, d) tell most of ``matrix^T`` times it.

    ``matrix`` is (d, n); the first rows tell most. Principal component analysis in that metric, exactly.
    """
    factor, failed = torch.linalg.cholesky_ex(moments)
    if failed or _singular(factor):
        root, inverse = root_and_inverse(moments)
    else:
        root, inverse = factor.T, torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    whitened = root @ matrix
    directions = leading_eigenvectors(whitened @ whitened.T)[1].T @ inverse
    return torch.nn.functional.normalize(directions, dim=1)
