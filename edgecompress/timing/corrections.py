"""What the table of times is off, by geometry and by chain, as whole files say that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompress.timing.geometries import Chain

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMMON, OWN = 0.5, 0.6
"""Standard deviations, as shares of what chains save by the table: of what is common to all, and to a geometry's."""
EACH, LEAST = 0.25, 0.1
"""The same of each chain alone; as if it saved at least such a share of what any of its geometry does."""
MISFIT = 0.01
"""Of the dense time: how far a file is from the sum of its chains even where each has its right saving."""

Term = tuple[str, Chain]
"""A chain in layers of a geometry."""
Table = Mapping[Term, float]
"""The share of the dense time that each saves in place of one layer."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A whole file: how many layers have each chain, the share of the dense time that it saves, its standard error."""

    counts: Mapping[Term, int]
    share: float
    error: float


def mended(table: Table, files: Sequence[Saved], random: np.random.Generator | None = None) -> dict[Term, float]:
    """The table as whole files say it is: the posterior mean of a linear model with normal errors, or a draw.

    What a file saves is the sum of what its chains save. All may be off by one share, those of a geometry by another,
    and each by its own: so files without a chain say something of it too, by those that are like it.

    Args:
        table: as it was taken.
        files: that were measured.
        random: draws one table of those that may be, so that chains of which little is known are tried (Thompson 1933).
    """
    import numpy as np

    terms, known = list(table), np.array(list(table.values()))
    if not terms:
        return {}
    prior = _Prior.of(terms, known)
    counts = np.array([[file.counts.get(term, 0) for term in terms] for file in files], np.float64).reshape(
        -1, len(terms)
    )
    noise = np.array([file.error**2 + MISFIT**2 for file in files])
    off, rest = np.zeros(len(terms)), np.array([file.share for file in files]) - counts @ known
    if random is not None:  # Matheron's rule: a draw from the prior, corrected by what is measured of it
        off = prior.drawn(random)
        rest = rest - counts @ off - random.normal(0, np.sqrt(noise))
    across = prior.covariance() @ counts.T
    found = known + off + across @ np.linalg.solve(counts @ across + np.diag(noise), rest)
    return dict(zip(terms, map(float, found), strict=True))


def saving(table: Table, counts: Mapping[Term, int]) -> float:
    """The share of the dense time that a file saves by a table."""
    return sum(count * table[term] for term, count in counts.items())


@dataclass(frozen=True, slots=True)
class _Prior:
    """How far savings may be off: ``known`` are those of the table, ``member`` has a row for each geometry."""

    known: NDArray[np.float64]
    member: NDArray[np.float64]
    own: NDArray[np.float64]

    @classmethod
    def of(cls, terms: Sequence[Term], known: NDArray[np.float64]) -> _Prior:
        import numpy as np

        geometries = list(dict.fromkeys(geometry for geometry, _ in terms))
        member = np.array([[float(geometry == one) for geometry, _ in terms] for one in geometries])
        largest = (member * np.abs(known)).max(axis=1) @ member
        return cls(known, member, EACH * (np.abs(known) + LEAST * largest))

    def covariance(self) -> NDArray[np.float64]:
        """Of all terms."""
        import numpy as np

        alike = COMMON**2 + OWN**2 * self.member.T @ self.member
        return np.asarray(np.outer(self.known, self.known) * alike + np.diag(self.own**2), np.float64)

    def drawn(self, random: np.random.Generator) -> NDArray[np.float64]:
        """Of the same, how far each is off."""
        of_all = random.normal(0, COMMON) + random.normal(0, OWN, len(self.member)) @ self.member
        return self.known * of_all + random.normal(0, self.own)
