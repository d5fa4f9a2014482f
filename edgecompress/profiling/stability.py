"""Whether times can be trusted, and if not, why. The thresholds are this project's; a reason states the fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgecompress.files import Json
from edgecompress.profiling.latencies import Latency
from edgecompress.profiling.ratios import quantile

FEWEST_RUNS, SHORTEST_S = 50, 1.0
CLOCK_LEFT = 0.9
"""The slowest clock seen over the fastest: below this the processor was throttled, or was not at speed yet."""
PREEMPTED_ABOVE, MOST_PREEMPTED = 1.1, 0.05
"""With one thread: wall time > 1.1 x CPU time counts as pre-empted; at most 5 % of the runs may be."""
MOST_SWITCHES = 100.0
"""Times a second that another process was given the processor, with several threads."""
SPREAD = 1.5
"""The slowest tenth over the median."""
THROTTLED_NOW = 0xE
"""Bits of the Raspberry Pi's firmware: frequency capped, throttled, soft temperature limit."""


def unstable(answer: Json, latencies: Sequence[Latency]) -> tuple[str, ...]:
    """The reasons not to trust the bench script's latency pass; none if there is none."""
    walls = [latency.all_wall_ms() for latency in latencies]
    return (
        *_throttled(answer),
        *_preempted(answer, latencies),
        *_too_few(walls),
        *unsettled(answer["models"]),
        *spread(walls),
    )


def _throttled(answer: Json) -> Iterator[str]:
    clocks = [clock for clock in answer["clocks_mhz"] if clock]
    if clocks and min(clocks) < CLOCK_LEFT * max(clocks):
        yield f"throttled: the clock went from {max(clocks):,.0f} to {min(clocks):,.0f} MHz"
    throttled = answer["conditions"]["after"]["throttled"]
    if throttled and int(throttled, 0 if throttled.startswith("0x") else 16) & THROTTLED_NOW:
        yield f"throttled: the firmware says {throttled}"


def _preempted(answer: Json, latencies: Sequence[Latency]) -> Iterator[str]:
    pairs = [pair for one in latencies for pair in zip(one.all_wall_ms(), one.all_cpu_ms(), strict=False)]
    if not pairs:
        return
    if answer["threads"] == 1:
        waiting = sum(wall > PREEMPTED_ABOVE * cpu for wall, cpu in pairs) / len(pairs)
        if waiting > MOST_PREEMPTED:
            yield f"pre-empted: in {100 * waiting:.0f} % of the runs the processor was given to another process"
        return
    rate = answer["preempted"] / max(1e-3, sum(wall for wall, _ in pairs) / 1e3)
    if rate > MOST_SWITCHES:
        yield f"pre-empted: {rate:.0f} times a second a processor was given to another process"


def _too_few(walls: Sequence[Sequence[float]]) -> Iterator[str]:
    fewest, seconds = min(map(len, walls)), min(map(sum, walls)) / 1e3
    if fewest < FEWEST_RUNS:
        yield f"too few runs: {fewest} of at least {FEWEST_RUNS}"
    if seconds < SHORTEST_S / 2:
        yield f"too short: {seconds:.2f} s of runs, of at least about {SHORTEST_S:g} s"


def unsettled(models: Sequence[Json]) -> Iterator[str]:
    """Models that were not steady after warming up in most of their loads."""
    for model in models:
        loads, unsettled = len(model["settled"]), model["settled"].count(False)
        if 2 * unsettled > loads:
            yield f"did not settle: {model['role']} was not steady after warming up in {unsettled} of {loads} loads"


def spread(walls: Sequence[Sequence[float]]) -> Iterator[str]:
    """Times of which a tenth are far above the median."""
    widest = max(quantile(times, 0.9) / quantile(times, 0.5) for times in walls)
    if widest > SPREAD:
        yield f"spread: a tenth of the runs took {widest:.1f} times the median or more"
