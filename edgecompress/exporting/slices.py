"""Comparing outputs slice by slice: one number for a whole tensor does not see that a part of it is lost.

Boxes of 0..640 beside scores of 0..1 agree with PyTorch to 50 dB while every score is zero. So each slice along each
axis but the batch is compared on its own: it must not be constant where PyTorch's varies, nor lose its correlation with
it. Not compared is what no file of the precision could hold: a slice that varies by less than a few steps of its own
largest value; a class whose probability never rises above the steps of an output that sums to one; a slice that is all
but silent (nearly always exactly one value, as after a ReLU); and what differs by a millionth in a slice that varies
by no more, such as a sigmoid far below zero, which ONNX Runtime ends at 1.5e-8 (of -18).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

FEWEST = 8
"""Numbers that a slice must have, to tell a lost correlation from chance."""
OWN_STEPS, SHARED_STEPS = 8.0, 16.0
"""A slice varies little if its range is so many steps of its own largest value, or of the whole output's."""
LOST, WEAK = 0.3, 0.8
"""Correlations: under the first a slice is lost; under the second one that varies little is worth another try."""
SILENT = 0.95
"""A slice of which this share is exactly one value is all but silent."""
TINY = 1e-6
"""Numbers, and differences of them, that nobody who reads an output can tell from 0."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a precision can hold: ``steps`` in a tensor's range, and the least SQNR of a whole output in dB."""

    steps: float
    floor_db: float


BOUNDS: dict[str, Bounds] = {"fp32": Bounds(2.0**20, 50.0), "fp16": Bounds(2.0**11, 30.0), "int8": Bounds(255.0, 12.0)}
"""By precision; half of fp32's digits are left for rounding errors that add up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one output (its number), in words; not ``fatal`` is what only could be better."""

    output: int
    text: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class _Slices:
    """Both sides' slices along an axis: (slices, numbers of each)."""

    expected: Array
    actual: Array

    def spread(self) -> Array:
        """PyTorch's range of each."""
        spread: Array = np.ptp(self.expected, axis=1)
        return spread

    def level(self) -> Array:
        """PyTorch's largest absolute value of each."""
        level: Array = np.abs(self.expected).max(axis=1)
        return level

    def is_told(self) -> Mask:
        """Where what PyTorch's slice varies by, or what the file differs by, can be told from 0."""
        error = np.abs(self.actual - self.expected).max(axis=1)
        told: Mask = np.maximum(self.spread(), error) > TINY
        return told

    def correlation(self) -> Array:
        """Of each; 0 where the file is constant."""
        ours, theirs = (side - side.mean(1, keepdims=True) for side in (self.expected, self.actual))
        norms = np.sqrt(np.square(ours).sum(1) * np.square(theirs).sum(1))
        correlation: Array = np.divide((ours * theirs).sum(1), norms, out=np.zeros_like(norms), where=norms > 0)
        return correlation

    def silent(self) -> Mask:
        """Where nearly all numbers of PyTorch's slice are exactly its median."""
        middle = np.median(self.expected, axis=1, keepdims=True)
        silent: Mask = (self.expected == middle).mean(axis=1) >= SILENT
        return silent


def compare_slices(expected: Sequence[Array], actual: Sequence[Array], precision: str) -> tuple[Finding, ...]:
    """Compare a file's outputs with PyTorch's, batch first; integers and shapes that differ are others' matter."""
    findings: list[Finding] = []
    for index, (ours, theirs) in enumerate(zip(expected, actual, strict=True)):
        if np.issubdtype(ours.dtype, np.floating) and ours.shape == theirs.shape and ours.size and ours.ndim:
            name = "output" if len(expected) == 1 else f"output_{index}"
            sides = [side.astype(np.float64).reshape(len(side), *(side.shape[1:] or (1,))) for side in (ours, theirs)]
            findings += _of_output(index, name, sides[0], sides[1], BOUNDS[precision])
    return tuple(findings)


def described(findings: Sequence[Finding]) -> str:
    """The fatal ones in a sentence; empty where there are none."""
    return "; ".join(finding.text for finding in findings if finding.fatal)


def _of_output(index: int, name: str, expected: Array, actual: Array, bounds: Bounds) -> list[Finding]:
    wrong = np.isfinite(expected) & ~np.isfinite(actual)
    if wrong.any():
        return [Finding(index, f"{name} has {int(wrong.sum()):,} numbers that are not finite in the file alone", True)]
    known = np.isfinite(expected) & np.isfinite(actual)
    expected, actual = np.where(known, expected, 0), np.where(known, actual, 0)
    scale = float(np.abs(expected).max())
    if scale <= TINY:
        return []
    findings = [at for axis in range(1, expected.ndim) for at in _along(index, name, axis, expected, actual, bounds)]
    sqnr, certain = sqnr_db(expected, actual), any(_sums_to_one(expected, a) for a in range(1, expected.ndim))
    if sqnr < bounds.floor_db and not certain and float(np.abs(expected - actual).max()) > TINY:
        text = f"{name} has an SQNR of {sqnr:.1f} dB, at least {bounds.floor_db:.0f} are needed"
        findings.append(Finding(index, text, True))
    return findings


def sqnr_db(expected: Array, actual: Array) -> float:
    """Signal over error energy in dB; infinite where the two are equal."""
    wrong = float(np.square(actual - expected).sum())
    return 10 * math.log10(max(float(np.square(expected).sum()), 1e-300) / wrong) if wrong else math.inf


def _along(index: int, name: str, axis: int, expected: Array, actual: Array, bounds: Bounds) -> list[Finding]:
    """What is wrong with slices along one axis."""
    count = expected.shape[axis]
    slices = _Slices(*(np.moveaxis(side, axis, 0).reshape(count, -1) for side in (expected, actual)))
    if slices.expected.shape[1] < FEWEST:
        return []
    spread, correlation = slices.spread(), slices.correlation()
    tested = (spread * bounds.steps > OWN_STEPS * slices.level()) & slices.is_told()
    little = spread * bounds.steps < SHARED_STEPS * np.abs(expected).max()
    if _sums_to_one(expected, axis):
        tested &= ~little
    gone, silent = correlation < LOST, slices.silent()
    fatal = tested & gone & ~(little & silent)
    weak = tested & ~fatal & little & (gone | ((correlation < WEAK) & ~silent))
    made = [(fatal, True), (weak, False)]
    return [Finding(index, _sentence(name, axis, which, slices), deadly) for which, deadly in made if which.any()]


def _sums_to_one(expected: Array, axis: int) -> bool:
    """Whether an output is probabilities along an axis."""
    return bool((expected >= 0).all() and np.allclose(expected.sum(axis), 1, atol=1e-3))


def _sentence(name: str, axis: int, which: Mask, slices: _Slices) -> str:
    """As ``output[:, 4:7] is constant in the file, 0.12..0.71 in PyTorch``."""
    place = f"{name}[{', '.join([':'] * axis)}, {_numbers(np.flatnonzero(which))}]"
    ours, theirs = slices.expected[which], slices.actual[which]
    inside = f"{ours.min():.3g}..{ours.max():.3g} in PyTorch"
    if not np.ptp(theirs, axis=1).any():
        return f"{place} is constant in the file, {inside}"
    return f"{place} has a correlation of {slices.correlation()[which].min():.2f} with PyTorch's, {inside}"


def _numbers(indices: Array, most: int = 4) -> str:
    """As ``4:7``, or ``1, 3:5 and 7 more``."""
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}:{run[-1] + 1}" for run in runs]
    left = sum(len(run) for run in runs[most:])
    return ", ".join(texts[:most]) + (f" and {left} more" if left else "")
