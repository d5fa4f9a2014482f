"""Linear axes of the report's charts: places in percent across, pixels down."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ALIKE = 1e-9
"""Values that differ by less, relatively, get the axis of one value: no round marks lie between them."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], margin: float = 0.08) -> Axis:
        """A scale with some room on both sides of the values, never below zero for values that are not."""
        known = list(values)
        low, high = min(known), max(known)
        spread = high - low if high - low > ALIKE * abs(high) else abs(high)
        room = margin * (spread or 1.0)
        return cls(max(0.0, low - room) if low >= 0 else low - room, high + room)

    def place(self, value: float) -> float:
        """Where a value stands, in percent; one that lies above stands at the end."""
        return round(100 * (min(value, self.high) - self.low) / (self.high - self.low), 2)

    def marks(self) -> list[tuple[float, str]]:
        """Three to eight round numbers: where they stand, and their text."""
        span = self.high - self.low
        exponent = math.floor(math.log10(span / 3))
        step = next(step for step in (factor * 10.0**exponent for factor in (5, 2, 1)) if span / step >= 3)
        counts = range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        return [(self.place(count * step), f"{count * step:,.{max(0, -exponent)}f}") for count in counts]

    def marks_down(self, height: int) -> list[tuple[float, str]]:
        """The same for a vertical axis of ``height`` pixels."""
        return [(round(height * (1 - place / 100), 1), text) for place, text in self.marks()]
