"""Tucker forms of tensors of any order: HOSVD, and several tensors with one core."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn

from edgecompress.codecs.dimensions import Dims
from edgecompress.plans import Ranks

SWEEPS, STEPS = 40, 10
"""Of the fit of a shared core: over all tensors, and of conjugate gradients for the core in each."""
RIDGE = 1e-8
TINY = 1e-12


def contracted(core: Tensor, *matrices: Tensor) -> Tensor:
    """``core`` (r1, ..., rn) times ``matrices`` (d_i, r_i): (d1, ..., dn). A step moves the first mode last."""
    for matrix in matrices:
        core = torch.tensordot(core, matrix, dims=([0], [1]))
    return core


def padded(weight: Tensor, dims: Dims) -> Tensor:
    """A weight as a tensor of sizes ``dims``, with zeros after its last number where they hold more."""
    flat = weight.flatten()
    return nn.functional.pad(flat, (0, prod(dims) - len(flat))).view(dims)


def hosvd(tensor: Tensor, ranks: Ranks) -> tuple[Tensor, ...]:
    """Core and orthonormal matrices by the leading eigenvectors of each unfolding's Gram matrix, in float64 within."""
    core, matrices = tensor.double(), []
    for mode, rank in enumerate(ranks):
        unfolded = tensor.double().movedim(mode, 0).flatten(1)
        matrices.append(torch.linalg.eigh(unfolded @ unfolded.T)[1].flip(1)[:, :rank])
        core = torch.tensordot(core, matrices[-1], dims=([0], [0]))
    return tuple(factor.to(tensor.dtype) for factor in (core, *matrices))


def unit_sized(factors: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], float]:
    """Factors with a mean square of one each, and what their product has to be multiplied with."""
    sizes = [factor.square().mean().sqrt().clamp_min(TINY) for factor in factors]
    scaled = tuple(factor / size for factor, size in zip(factors, sizes, strict=True))
    return scaled, float(torch.stack(sizes).double().prod())


def shared_tucker(tensors: Sequence[Tensor], ranks: Ranks) -> tuple[Tensor, list[list[Tensor]]]:
    """One core for several tensors, each counted at unit norm, and the matrices of each; by alternating least squares.

    The core starts as the HOSVD core of the largest tensor; matrices are solved for mode by mode, then the core by
    conjugate gradients. Ranks above a tensor's size are allowed: its matrix is then wide.
    """
    dtype = tensors[0].dtype
    norms = [float(tensor.double().norm()) for tensor in tensors]
    units = [tensor.double() / norm for tensor, norm in zip(tensors, norms, strict=True)]
    core = _first_core(max(units, key=Tensor.numel), ranks)
    fitted = [_first_matrices(unit, ranks) for unit in units]
    for _ in range(SWEEPS):
        for unit, matrices in zip(units, fitted, strict=True):
            _solve_matrices(unit, core, matrices)
        core = _solve_core(units, core, fitted)
    for norm, matrices in zip(norms, fitted, strict=True):
        matrices[0] = matrices[0] * norm
    return core.to(dtype), [[matrix.to(dtype) for matrix in matrices] for matrices in fitted]


def _first_core(tensor: Tensor, ranks: Ranks) -> Tensor:
    """The HOSVD core, with zeros where a rank is above the tensor's size and a little noise so that none stays."""
    core = hosvd(tensor, tuple(map(min, tensor.shape, ranks)))[0]
    noise = torch.randn(ranks, generator=torch.Generator().manual_seed(0), dtype=core.dtype)
    whole: Tensor = 1e-3 * float(core.norm()) / prod(ranks) ** 0.5 * noise
    whole[tuple(slice(0, size) for size in core.shape)] += core
    return whole


def _first_matrices(tensor: Tensor, ranks: Ranks) -> list[Tensor]:
    return [
        nn.functional.pad(matrix, (0, rank - matrix.shape[1]))
        for matrix, rank in zip(hosvd(tensor, tuple(map(min, tensor.shape, ranks)))[1:], ranks, strict=True)
    ]


def _solve_matrices(tensor: Tensor, core: Tensor, matrices: list[Tensor]) -> None:
    """Each matrix in turn by least squares, the others fixed, in place."""
    for mode in range(len(matrices)):
        others = [torch.eye(core.shape[at], dtype=core.dtype) if at == mode else m for at, m in enumerate(matrices)]
        basis = contracted(core, *others).movedim(mode, 0).flatten(1)
        gram = basis @ basis.T
        gram += RIDGE * (gram.diagonal().mean() + TINY) * torch.eye(len(gram), dtype=gram.dtype)
        unfolded = tensor.movedim(mode, 0).flatten(1)
        matrices[mode] = torch.linalg.solve(gram, basis @ unfolded.T).T


def _solve_core(tensors: Sequence[Tensor], core: Tensor, fitted: Sequence[Sequence[Tensor]]) -> Tensor:
    """The core by conjugate gradients on the normal equations of all tensors, from ``core``."""
    grams = [[matrix.T @ matrix for matrix in matrices] for matrices in fitted]

    def product(given: Tensor) -> Tensor:
        total: Tensor = torch.stack([contracted(given, *gram) for gram in grams]).sum(0)
        return total

    wanted = [contracted(t, *(m.T for m in matrices)) for t, matrices in zip(tensors, fitted, strict=True)]
    residual = torch.stack(wanted).sum(0) - product(core)
    direction, energy = residual, residual.square().sum()
    for _ in range(STEPS):
        if float(energy) < TINY * TINY:
            break
        moved = product(direction)
        step = energy / (direction * moved).sum().clamp_min(TINY * TINY)
        core, residual = core + step * direction, residual - step * moved
        before, energy = energy, residual.square().sum()
        direction = residual + energy / before * direction
    return core
