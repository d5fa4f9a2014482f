"""Numbers as text, with their units, the same on the terminal and in the report."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


def score_text(value: float, unit: str) -> str:
    """A score with its unit: two decimals of percent, or five digits of anything else."""
    return f"{value:.2f}{unit}" if unit else f"{value:.5g}"


def score_change(before: float, after: float, unit: str) -> str:
    """The difference of two scores, in points where they are percent."""
    return f"{after - before:+.2f} points" if unit else f"{after - before:+.5g}"


def significant(value: float, digits: int = 4) -> str:
    """Decimal notation with about ``digits`` significant digits."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(0, decimals)}f}"


def error_text(value: float) -> str:
    """A relative error with three significant digits, however small it is."""
    return significant(value, 3) if value == 0 or value >= 0.001 else f"{value:.2e}"


def _scaled(value: float, prefixes: Sequence[str]) -> str:
    """A number with a decimal prefix: 40.55 M."""
    step = min(len(prefixes) - 1, int(math.log10(abs(value)) // 3)) if abs(value) >= 1000 else 0
    number = significant(value / 1000**step) if step else f"{value:g}"
    return f"{number} {prefixes[step]}".strip()


def percent(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def count_text(value: float) -> str:
    """A count with a decimal prefix."""
    return _scaled(value, ("", "k", "M", "G", "T"))


def bytes_text(value: float) -> str:
    """A size with a decimal unit."""
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def grouped(value: float | None) -> str:
    """A number with its thousands apart, or that it was not counted."""
    return "not counted" if value is None else f"{value:,}"


def milliseconds(value: float) -> str:
    """A time with its unit."""
    return f"{significant(value)} ms"


def change(before: float | None, after: float | None) -> str:
    """The relative change in percent, as words where there is none."""
    if before is None or after is None or before == 0:
        return ""
    percent = (after / before - 1) * 100
    if percent == 0:
        return "no change"
    return minus(f"{percent:+.1f} %" if abs(percent) >= 0.05 else f"{percent:+.1g} %")


def minus(text: str) -> str:
    """The sign, where a hyphen stands for it at the start."""
    return "−" + text[1:] if text.startswith("-") else text


def typeset(findings: str) -> str:
    """Arrow, minus and times sign in place of their ASCII forms, and no line break before a percent sign."""
    signs = re.sub(r"(\(| interval | to )-(?=\d)", r"\1−", findings.replace(" -> ", " → "))
    return re.sub(r"(\d\.\d+)x\b", r"\1×", signs).replace(" %", "\N{NO-BREAK SPACE}%")


def capitalized(text: str) -> str:
    """With a capital at its start and nothing else changed."""
    return text[:1].upper() + text[1:]


def scientific(value: float) -> str:
    """Two significant digits."""
    return minus(f"{value:.2g}")


def as_text(value: object) -> str:
    """An option's value in words."""
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {as_text(part)}" for key, part in value.items()) or "none"
    return str(value)


MEASURES: Mapping[str, Callable[[float], str]] = {
    "_mhz": lambda value: f"{value:,.0f} MHz",
    "_c": lambda value: f"{value:.1f} °C",
    "_bytes": bytes_text,
}
"""How a fact of a device is written, by the end of its key."""


def fact(key: str, value: object) -> tuple[str, str]:
    """What a device reports of itself: a label without the unit, and the value with it."""
    suffix = next((end for end in MEASURES if key.endswith(end)), "")
    label = key.removesuffix(suffix).replace("_", " ").capitalize().replace("Cpus", "CPUs")
    if value is None:
        return label, "not reported"
    if suffix and isinstance(value, int | float):
        return label, MEASURES[suffix](value)
    return label, f"{value:.4g}" if isinstance(value, float) else as_text(value)


@dataclass(frozen=True, slots=True)
class Unit:
    """How a quantity is shown, and in full where that is longer."""

    show: Callable[[float], str]
    exact: Callable[[float], str] = lambda _: ""

    def text(self, value: float | None) -> str:
        """The value, or that it is not known."""
        return "not measured" if value is None else self.show(value)

    def in_full(self, value: float | None) -> str:
        """The exact value, or nothing."""
        return "" if value is None else self.exact(value)


COUNT = Unit(count_text, grouped)
BYTES = Unit(bytes_text, lambda size: f"{size:,} bytes")
TIME = Unit(milliseconds)
