"""Scores over one whole split, kept so that two of them can be paired on the same items, and what sets them apart.

Most items count alike for two models that are nearly the same; only those on which they differ tell them apart. So the
difference of two scores gets its interval from the pairs, and is called one only where that interval lies clear of 0.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean
from typing import Any

from edgecompress.files import Json

BLOCKS, FEWEST_BLOCKS = 20, 5
"""A score of the user's own is computed again without each of so many blocks of items."""
CONFIDENCE, SURELY = 0.95, 0.99
"""Of the interval, from both sides, and of what a file is refused by, from one: many files are held against it."""


@dataclass(frozen=True, slots=True)
class SplitScore:
    """A score over a whole split of ``items``, and what it takes to pair it with another model's.

    ``right`` says of each item, one bit each, whether it counted (top-1 accuracy); ``without`` are the scores over
    all items but one block of them, block by block (any other score); ``why_not`` says why there is neither. ``digest``
    identifies the split by its targets.
    """

    value: float
    items: int
    digest: str = ""
    right: bytes = b""
    without: tuple[float, ...] = ()
    why_not: str = ""

    def to_json(self) -> Json:
        """A JSON object; bits are base64."""
        bits = base64.b64encode(self.right).decode()
        return {
            "value": self.value,
            "items": self.items,
            "digest": self.digest,
            "right": bits,
            "without": list(self.without),
            "why_not": self.why_not,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> SplitScore | None:
        """The inverse of :meth:`to_json`; None of nothing, or of what cannot be read: a pair is then not known."""
        try:
            fields = {key: document[key] for key in cls.__dataclass_fields__}  # type: ignore[index]
            right = base64.b64decode(fields["right"], validate=True)
            return cls(**fields | {"right": right, "without": tuple(map(float, fields["without"]))})
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error):
            return None


@dataclass(frozen=True, slots=True)
class Difference:
    """The second score minus the first, on the same ``items``, in the score's unit (points where that is percent).

    ``interval`` is the 95 % interval, ``at_best`` the end of a one-sided one: with 99 % confidence the second is no
    better than that. Both are None where no interval could be made, and ``why_not`` says why; with an interval it says
    why that may be wider. ``flips`` are the items that only the first and only the second got right, where single items
    are right or wrong.
    """

    value: float
    items: int
    interval: tuple[float, float] | None = None
    at_best: float | None = None
    flips: tuple[int, int] | None = None
    why_not: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the interval lies clear of 0."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]

    def worse_by_more_than(self, tolerance: float) -> bool:
        """Whether the second is surely worse by more; without an interval, whether its score is."""
        return (self.value if self.at_best is None else self.at_best) < -tolerance

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "difference": self.value,
            "items": self.items,
            "ci95": list(self.interval) if self.interval else None,
            "at_best": self.at_best,
            "flips": list(self.flips) if self.flips else None,
            "why_not": self.why_not,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Difference:
        """The inverse of :meth:`to_json`."""
        interval, flips = document["ci95"], document["flips"]
        return cls(
            float(document["difference"]),
            int(document["items"]),
            (float(interval[0]), float(interval[1])) if interval else None,
            document["at_best"],
            (int(flips[0]), int(flips[1])) if flips else None,
            str(document["why_not"]),
        )


def difference(first: SplitScore, second: SplitScore) -> Difference:
    """What sets two scores on one split apart."""
    if (first.items, first.digest) != (second.items, second.digest):
        return Difference(second.value - first.value, second.items, why_not="the items are not the same")
    if first.right and second.right:
        return of_flips(*_flips(first, second), first.items)
    if len(first.without) == len(second.without) and first.without:
        return _of_blocks(first, second)
    why_not = first.why_not or second.why_not or "it is not known which items count"
    return Difference(second.value - first.value, second.items, why_not=why_not)


def _flips(first: SplitScore, second: SplitScore) -> tuple[int, int]:
    """How many items only the first got right, and how many only the second."""
    ours, theirs = (int.from_bytes(one.right, "big") for one in (first, second))
    return (ours & ~theirs).bit_count(), (theirs & ~ours).bit_count()


def of_flips(lost: int, won: int, items: int) -> Difference:
    """Points between two accuracies on the same items, of which ``lost`` became wrong and ``won`` became right.

    The adjusted Wald interval of Bonett & Price (2012), which Fagerland, Lydersen & Laake (2014) recommend for paired
    proportions: one item is added to each kind of flip, so that a few items without a flip prove little.
    """
    fewer, more = ((count + 1) / (items + 2) for count in (lost, won))
    centre = more - fewer
    error = math.sqrt((fewer + more - centre**2) / (items + 2))
    return _with_interval(100 * (won - lost) / items, items, 100 * centre, 100 * error, _normal, (lost, won), 100.0)


def unpaired(first: float, second: float, items: int) -> Difference:
    """What is still known of two accuracies in percent on ``items`` items (0: unknown) that were not paired.

    If they would not be told apart even with all flips on one side, which gives the narrowest interval, they are not.
    """
    value, why_not = second - first, "not paired item by item"
    flipped = round(abs(value) * items / 100)
    clearest = of_flips(*((flipped, 0) if value < 0 else (0, flipped)), items) if items else None
    if clearest is None or clearest.resolved:
        return Difference(value, items, why_not=why_not)
    return replace(clearest, value=value, flips=None, why_not=why_not)


def _of_blocks(first: SplitScore, second: SplitScore) -> Difference:
    """Any score: the delete-a-group jackknife (Tukey 1958) of the difference over blocks of items."""
    value, count = second.value - first.value, len(first.without)
    without = [theirs - ours for ours, theirs in zip(first.without, second.without, strict=True)]
    mean = fmean(without)
    error = math.sqrt((count - 1) / count * sum((one - mean) ** 2 for one in without))
    return _with_interval(value, second.items, value, error, lambda part: student(part, count - 1))


def _with_interval(
    value: float,
    items: int,
    centre: float,
    error: float,
    quantile: Callable[[float], float],
    flips: tuple[int, int] | None = None,
    most: float = math.inf,
) -> Difference:
    both, one = (quantile(part) * error for part in ((1 + CONFIDENCE) / 2, SURELY))
    interval = max(-most, min(centre - both, value)), min(most, max(centre + both, value))
    return Difference(value, items, interval, max(centre + one, value), flips)


def _normal(part: float) -> float:
    return NormalDist().inv_cdf(part)


def student(part: float, freedom: int) -> float:
    """The quantile of Student's t by its expansion (Abramowitz & Stegun 26.7.5); 0.5 % off at 4 degrees of freedom."""
    z = _normal(part)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + float(sum(term / freedom**power for power, term in enumerate(terms, 1)))
