"""What is believed of the times of chains as whole files are measured: the rule that follows, and plans to try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompress.selectors.base import Choices
from edgecompress.timing.corrections import Saved, Table, mended, saving
from edgecompress.timing.measured import Measured
from edgecompress.timing.rivals import Asked, Rivals, Rule, fastest_from

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class Beliefs:
    """What rivals choose from, the table of times as it was taken, and as whole files say it is."""

    rivals: Rivals
    taken: Table
    table: Table
    random: np.random.Generator

    @classmethod
    def of(cls, rivals: Rivals) -> Beliefs:
        """Before any file was measured."""
        import numpy as np

        table = rivals.table()
        return cls(rivals, table, table, np.random.default_rng(0))

    def mend(self, files: Sequence[Measured]) -> Rule:
        """By whole files that were measured; returns the rule by times that follows."""
        self.table = mended(self.taken, self._saved(files))
        return self.rivals.mended(self.table).timed

    def drawn(self, files: Sequence[Measured], asked: float) -> Asked | None:
        """A plan by a table that may be as well; None where there is none in time."""
        return fastest_from(self.rivals.mended(mended(self.taken, self._saved(files), self.random)).timed, asked)

    def saving(self, choices: Choices) -> float:
        """The share of the dense time that a plan is believed to save."""
        return max(0.0, saving(self.table, self.rivals.counts(choices)))

    def by_geometry(self, choices: Choices) -> dict[str, float]:
        """The same by geometry, as the table was taken."""
        found = dict[str, float]()
        for term, count in self.rivals.counts(choices).items():
            found[term[0]] = found.get(term[0], 0.0) + count * self.taken[term]
        return found

    def _saved(self, files: Sequence[Measured]) -> list[Saved]:
        return [Saved(self.rivals.counts(one.choices), 1 - one.kept, one.error) for one in files]
