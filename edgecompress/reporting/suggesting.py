"""The lowest budget that is expected to hold the outputs, where the one that was asked for did not."""

from __future__ import annotations

import math

from edgecompress.plans import Outlook
from edgecompress.reporting.document import Compression
from edgecompress.reporting.numbers import score_change
from edgecompress.reporting.wording import agreement_text, sqnr_text

MOST_POINTS, LEAST_AGREEMENT, LEAST_DB = 1.0, 0.95, 20.0
"""What holds: at most so many points lost of a score in percent; without one so many equal answers; or such an SQNR."""


def suggestion(made: Compression, outlook: Outlook) -> str:
    """A sentence, or nothing where the outputs hold or what other budgets would cost is not known.

    What changes at the output grows with the square root of its loss, which is of second order: the change that was
    measured is scaled by the predicted losses.
    """
    found = shortfall(made)
    if found is None or not outlook or outlook[0][1] <= 0:
        return ""
    words, excess = found
    asked, predicted = outlook[0]
    enough = (keep for keep, loss in outlook if math.sqrt(loss / predicted) * excess <= 1)
    keep = next(enough, None)
    start = f"--keep {asked:g} does not hold the outputs ({words})"
    basis = "by the plan's predicted losses, scaled to what was measured here"
    if keep is None:
        ways = "fine-tune longer, or look with `inspect` at what pays instead"
        return f"{start}; no --keep up to {outlook[-1][0]:g} is expected to, {basis}: {ways}"
    return f"{start}; the lowest that is expected to is --keep {keep:g}, {basis}; it was not measured itself"


def shortfall(made: Compression) -> tuple[str, float] | None:
    """What was measured and wanted, and how many times too large the change is; None where it is not."""
    apart, near, unit = made.score_difference, made.outputs, made.metric.unit
    if apart is not None and unit:
        lost = -apart.value / MOST_POINTS
        words = f"{score_change(0, apart.value, unit)} of {made.metric.name}, wanted at most {MOST_POINTS:g} lost"
        return (words, lost) if apart.resolved and lost > 1 else None
    if near is None:
        return None
    if near.agreement is not None:
        words = f"{agreement_text(near)} of answers the same, wanted {100 * LEAST_AGREEMENT:g} %"
        excess = (1 - near.agreement) / (1 - LEAST_AGREEMENT)
    else:
        words = f"SQNR {sqnr_text(near.sqnr_db)}, wanted {LEAST_DB:g} dB"
        excess = 10 ** ((LEAST_DB - near.sqnr_db) / 20)
    return (words, excess) if excess > 1 else None
