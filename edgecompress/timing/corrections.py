"""What the table of times is off, by geometry, as whole files say that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMMON, OWN = 0.5, 0.6
"""Standard deviations: how far the factors of all geometries usually are from 1, and each from those of the others."""
MISFIT = 0.01
"""Of the dense time: how far a file is from the sum of its chains even where each geometry has its right factor."""

Savings = Mapping[str, float]
"""By geometry the share of the dense time that a file's chains save."""


def factors_of(files: Sequence[tuple[Savings, float, float]]) -> dict[str, float]:
    """By geometry how many times what the table lets its chains save they do save.

    The posterior mean of a linear model with normal errors: what a file saves is the sum of what its geometries save by
    the table, each times its factor. Factors are near 1, and nearer to each other, where files do not say otherwise.

    Args:
        files: of each what the table lets it save, what it was measured to save, and the standard error of that.
    """
    import numpy as np

    keys = sorted({key for savings, _, _ in files for key in savings})
    if not keys:
        return {}
    design = np.array([[savings.get(key, 0.0) for key in keys] for savings, _, _ in files])
    measured = np.array([saved for _, saved, _ in files])
    weights = 1 / (np.array([error for _, _, error in files]) ** 2 + MISFIT**2)
    found = 1 + _posterior(design, measured - design.sum(axis=1), weights)
    return dict(zip(keys, map(float, found), strict=True))


def corrected(savings: Savings, factors: Mapping[str, float]) -> float:
    """The share of the dense time that is saved in all, with a factor for each geometry; 0 where it is less."""
    return max(0.0, sum(saving * factors.get(key, 1.0) for key, saving in savings.items()))


def _posterior(
    design: NDArray[np.float64], rest: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Of factors less 1: they vary together by ``COMMON`` and apart by ``OWN``."""
    import numpy as np

    prior = COMMON**2 + OWN**2 * np.eye(design.shape[1])
    precision = np.linalg.inv(prior) + design.T @ (weights[:, None] * design)
    return np.asarray(np.linalg.solve(precision, design.T @ (weights * rest)), np.float64)
