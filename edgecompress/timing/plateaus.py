"""The multiple that ranks should be of: where times stay level, and what is known of runtimes where none were taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgecompress.plans import Ranks
from edgecompress.timing.caching import Timing, TimingFile, circumstances_of, known_files

MULTIPLES = (4, 8, 16, 32)
STEP, MOST = 4, 64
"""Ranks that are timed to find plateaus."""
USUAL = 8
FEWEST = 4
"""Ranks that are no multiples of the usual, without which a line shows no steps."""
CLEAR, LEAST_SPREAD = 4.0, 1e-9
"""By how much the next best multiple has to fit worse: two standard errors, squared."""

WIDTHS: Mapping[str, Mapping[str, int]] = {
    "onnx": {"avx512f": 16},
    "openvino": {"avx512f": 16},
    "ncnn": {"avx512f": 16},
    "litert": {"avx512f": 16},
    "executorch": {"avx512f": 16},
}
"""By target, for a flag of the processor, the channels its kernels compute at once; 8 elsewhere.

ONNX Runtime's blocked layout has 16 channels with AVX-512 and 8 otherwise (measured: level in steps of 16 with AVX-512,
of 8 with AVX2); oneDNN in OpenVINO, ncnn and XNNPACK pack by the vector width in the same way (their sources).
"""


def plateau_ranks(largest: int) -> list[Ranks]:
    """The ranks to time of a method that has one."""
    return [(rank,) for rank in range(STEP, min(largest, MOST) + 1, STEP)]


def misfits(timings: Iterable[Timing]) -> dict[int, float]:
    """By multiple how far times are from rising in steps of it: squared distances in standard errors, summed.

    A step is what a straight line through the ranks, each rounded up to the multiple, gives; every geometry and method
    with enough ranks has a line of its own.
    """
    series: dict[tuple[str, str], dict[int, Timing]] = {}
    for one in timings:
        if len(one.ranks) == 1 and one.ranks[0] <= MOST and one.ranks[0] % STEP == 0:
            series.setdefault((one.geometry, one.method), {})[one.ranks[0]] = one
    return added(_misfits(own) for own in series.values())


def _misfits(own: Mapping[int, Timing]) -> dict[int, float]:
    """Of one line; nothing where too few ranks between those of the usual multiple are known."""
    import numpy as np

    ranks = np.array(sorted(own))
    if (ranks % USUAL != 0).sum() < FEWEST or ranks.max() <= max(MULTIPLES):
        return {}
    shares = np.array([own[rank].share for rank in ranks])
    weights = 1 / np.maximum(LEAST_SPREAD, [own[rank].spread for rank in ranks])
    found = {}
    for multiple in MULTIPLES:
        rounded = np.ceil(ranks / multiple) * multiple
        slope, start = np.polyfit(rounded, shares, 1, w=weights)
        found[multiple] = float(np.square((shares - slope * rounded - start) * weights).sum())
    return found


def added(found: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """By multiple the sum of misfits."""
    known = [one for one in found if one]
    return {multiple: sum(one[multiple] for one in known) for multiple in MULTIPLES} if known else {}


def clear_multiple(found: Mapping[int, float]) -> int | None:
    """The one of least misfit; None where another is as likely, or nothing is known."""
    ordered = sorted(found, key=lambda multiple: found[multiple])
    return ordered[0] if len(ordered) > 1 and found[ordered[1]] - found[ordered[0]] >= CLEAR else None


def known_multiple(target: str, device: str) -> int:
    """Without times: by target and, of this machine, the flags of the processor; of others they are not known."""
    from edgecompress.timing.stopwatches import flags_here

    given = set(flags_here().split()) if device == "local" else set[str]()
    return next((width for flag, width in WIDTHS.get(target, {}).items() if flag in given), USUAL)


def measured_multiple(target: str, device: str) -> int | None:
    """By all times of any model for ``target`` on ``device``, if it is this machine still; None without any."""
    from edgecompress.timing.stopwatches import identity_here

    found = []
    for facts in known_files():
        at = circumstances_of(facts)
        here = device != "local" or (at is not None and at.machine == identity_here())
        if at is not None and here and (at.target, at.device) == (target, device):
            found.append(misfits(TimingFile(at).read()))
    return clear_multiple(added(found))
