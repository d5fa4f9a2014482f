"""How far a file may be from PyTorch, by precision."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a file may be from PyTorch.

    ``relative`` is the largest absolute error as a fraction of PyTorch's largest absolute value of the same output,
    ``points`` how much worse its score in percent may be (for a score of the user's own, so many hundredths of it).
    """

    relative: float
    points: float


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(1e-4, 0.05),
    "fp16": Tolerance(2e-2, 0.1),
    "int8": Tolerance(0.25, 1.0),
}
"""By precision."""
