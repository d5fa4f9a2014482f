"""How far a file may be from PyTorch, by precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from edgecompress.artifacts import Parity
from edgecompress.exporting.outputs import Array
from edgecompress.models import copied
from edgecompress.models.datasets import Inputs

OWN, MOST_OWN = 4.0, 10.0
"""So many times PyTorch's own error in float32 is no error of a file, up to so many times the tolerance."""


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


def allowed_error(tolerance: Tolerance, parity: Parity, own_error: Callable[[], float]) -> float:
    """The largest absolute error that a file may have.

    Files and PyTorch sum in different orders: of millions of outputs of a deep net some are further apart in float32
    than ``tolerance``, though neither is wrong. ``own_error``, PyTorch's distance in float32 from float64, is asked for
    only where it can decide.
    """
    usual = tolerance.relative * parity.scale
    if usual < parity.max_abs_error <= MOST_OWN * usual:
        return min(MOST_OWN * usual, max(usual, OWN * own_error()))
    return usual


def float32_error(run: Callable[[nn.Module, Inputs], Sequence[Array]], model: nn.Module, inputs: Inputs) -> float:
    """The largest distance of what ``run`` gives in float32 from what it gives in float64; 0 where it does not run."""
    doubled = tuple(tensor.double() if tensor.is_floating_point() else tensor for tensor in inputs)
    try:
        exact = run(copied(model).double(), doubled)
    except Exception:  # the user's code runs: it may be of float32 alone
        return 0.0
    pairs = zip(run(model, inputs), exact, strict=True)
    return max((float(np.abs(ours - theirs).max()) for ours, theirs in pairs if ours.dtype.kind == "f"), default=0.0)
