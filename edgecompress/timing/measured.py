"""A whole plan whose file was measured."""

from __future__ import annotations

from dataclasses import dataclass

from edgecompress.files import Json
from edgecompress.profiling.ratios import Ratio
from edgecompress.selectors.base import Choices
from edgecompress.timing.geometries import Chain
from edgecompress.timing.grafting import Chosen
from edgecompress.timing.rivals import chains_of

Key = frozenset[tuple[str, Chain]]
"""What a file is known by: the chains in it."""
DENSE: Key = frozenset()


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole plan: the rule that made it, its expected loss, how many times as fast as dense it is, and should be.

    ``asked`` is the share of the dense time that the rule was to save by the table; the ratio is pooled over ``loads``.
    """

    rule: str
    asked: float
    choices: Choices
    loss: float
    ratio: Ratio
    predicted: float
    loads: int = 1

    @property
    def kept(self) -> float:
        """Of the dense time."""
        return 1 / self.ratio.value

    @property
    def error(self) -> float:
        """The standard error of ``kept``, about."""
        return self.ratio.inverse.error

    @property
    def key(self) -> Key:
        """Of its file."""
        return key_of(chains_of(self.choices))

    def to_json(self) -> Json:
        """A JSON object."""
        chains = chains_of(self.choices)
        return {
            "rule": self.rule,
            "loss": self.loss,
            "speedup": self.ratio.value,
            "ci95": self.ratio.ci95,
            "predicted": self.predicted,
            "loads": self.loads,
            "chains": {name: [method, *ranks] for name, (method, ranks) in chains.items()},
        }


def key_of(chosen: Chosen) -> Key:
    """Equal for equal files."""
    return frozenset(chosen.items())
