"""Each reason not to trust times is found where it is true, and none where nothing is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgecompress.profiling.latencies import Latency
from edgecompress.profiling.stability import unstable


def latency(wall: Any, cpu: Any = None, loads: int = 8) -> Latency:
    blocks = np.array_split(np.asarray(wall, float), loads)
    own = np.array_split(np.asarray(wall if cpu is None else cpu, float), loads)
    return Latency(tuple(map(tuple, blocks)), tuple(map(tuple, own)), tuple(range(loads)))


def answer(**changed: Any) -> dict[str, Any]:
    after = {"throttled": changed.pop("throttled", None)}
    plain = {"threads": 1, "preempted": 0, "clocks_mhz": [None] * 8, "conditions": {"after": after}}
    return {**plain, "models": [{"role": "candidate", "settled": [True] * 8}], **changed}


STEADY = np.full(2_000, 1.0)


def test_steady_times_are_trusted() -> None:
    assert unstable(answer(), [latency(STEADY), latency(2 * STEADY)]) == ()


@pytest.mark.parametrize(
    ("said", "times", "reason"),
    [
        (answer(clocks_mhz=[1800.0, 1790.0, 1200.0]), latency(STEADY), "throttled: the clock went from 1,800 to 1,200"),
        (answer(throttled="0x50005"), latency(STEADY), "throttled: the firmware says 0x50005"),
        (answer(throttled="e0008"), latency(STEADY), "throttled: the firmware says e0008"),
        (answer(), latency(np.where(np.arange(2_000) % 10, 1.0, 1.3), STEADY), "pre-empted: in 10 % of the runs"),
        (answer(threads=2, preempted=900), latency(STEADY), "pre-empted: 450 times a second"),
        (answer(), latency(STEADY[:30] * 30, loads=3), "too few runs: 30 of at least 50"),
        (answer(), latency(STEADY / 10), "too short: 0.20 s"),
        (
            answer(models=[{"role": "baseline", "settled": [True, False, False]}]),
            latency(STEADY),
            "did not settle: baseline was not steady after warming up in 2 of 3 loads",
        ),
        (answer(), latency(np.where(np.arange(2_000) % 5, 1.0, 1.8)), "spread: a tenth of the runs took 1.8 times"),
    ],
)
def test_what_is_wrong_is_said(said: dict[str, Any], times: Latency, reason: str) -> None:
    found = unstable(said, [times])
    assert any(one.startswith(reason) for one in found), found


def test_what_was_throttled_once_but_is_not_now_is_no_reason() -> None:
    assert unstable(answer(throttled="0x50000"), [latency(STEADY)]) == ()
    assert unstable(answer(clocks_mhz=[1800.0, 1750.0]), [latency(STEADY)]) == ()
