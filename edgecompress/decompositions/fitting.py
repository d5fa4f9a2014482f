"""Fits of one kernel at many ranks, for comparing them: what ranks have in common is worked out once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from edgecompress.decompositions.base import Decomposition
from edgecompress.decompositions.projection import Form, Problem
from edgecompress.decompositions.sketch import Sketch
from edgecompress.plans import Ranks


class Fitting(Protocol):
    """Fits of one kernel by one method at any ranks."""

    def errors(self, candidates: Sequence[Ranks]) -> list[float]:
        """Relative squared output error at each of ``candidates``, cheap for many of them."""

    def reached(self, ranks: Ranks, steps: int, /) -> Tensor:
        """(T, D): the kernel that the factors after so many steps stand for."""


@runtime_checkable
class _Nested(Form, Protocol):
    """Any form, for ``isinstance``."""


@dataclass(frozen=True, slots=True)
class _Alone:
    """Fits of a method whose ranks share nothing."""

    method: Decomposition
    kernel: Tensor
    moments: Any

    def errors(self, candidates: Sequence[Ranks]) -> list[float]:
        return self.method.errors(self.kernel, candidates, self.moments)

    def reached(self, ranks: Ranks, steps: int) -> Tensor:
        few = replace(self.method, steps=steps) if hasattr(self.method, "steps") else self.method  # type: ignore[type-var]
        return few.reconstruct(few.factors(self.kernel, ranks, self.moments)).flatten(1)


def quick(method: Decomposition, largest: Ranks) -> bool:
    """Do all ranks share one factorization?"""
    return method.nest(largest) == () if isinstance(method, _Nested) else hasattr(method, "problem")


def fitting(method: Decomposition, kernel: Tensor, moments: Tensor | Sketch, target: Tensor | None = None) -> Fitting:
    """Fits of ``kernel`` by ``method`` in the metric of ``moments``, sharing what ranks have in common.

    ``target`` (T, D) is the kernel times the moments, where that is known.
    """
    if isinstance(method, _Nested) and isinstance(moments, Tensor):
        return Problem(method, kernel, moments, target)
    own = getattr(method, "problem", None)
    made: Fitting = _Alone(method, kernel, moments) if own is None else own(kernel, moments, target)
    return made
