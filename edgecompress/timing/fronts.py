"""Other plans of a plan for a latency: of all that was measured, those that no other beats in time and in loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgecompress.errors import PlanError
from edgecompress.files import Json
from edgecompress.planning.fronts import thinned
from edgecompress.plans import CompressionPlan
from edgecompress.progress import notice
from edgecompress.selectors.base import Selector
from edgecompress.selectors.ceilings import needs_times


def front_of(made: CompressionPlan, most: int) -> list[tuple[int, CompressionPlan]]:
    """At most ``most`` plans of the front beside the chosen one, evenly from the least loss to the fastest.

    Each comes with its place in what was measured. Where there are fewer, that is said.

    Raises:
        PlanError: nothing was measured of the plan, or by a version that kept no other plans.
    """
    refuse_without_times(None, made)
    latency = (made.measured or {})["latency"]
    found = [(at, one) for at, one in enumerate(latency["measured"]) if one["front"] and not one.get("chosen")]
    if any("plan" not in one for _, one in found):
        raise PlanError("--pareto: the plan is of an older version, which kept no other plans; make it again")
    if len(found) < most:
        notice(f"--pareto {most}: {len(found)} other plan(s) of those measured are beaten by none; all are kept")
    found.sort(key=lambda one: one[1]["loss"])
    kept = thinned(found, most) if most > 1 else found[:most]
    return [(at, _plan(made, latency, one)) for at, one in kept]


def refuse_without_times(selector: Selector | None, given: CompressionPlan | None) -> None:
    """Refuse to keep plans of a front where none are measured.

    Raises:
        PlanError: neither does the selector choose by latency, nor was anything measured of a plan that is there.
    """
    measured = given is not None and "latency" in (given.measured or {})
    if not measured and (selector is None or not needs_times(selector)):
        raise PlanError(
            "--pareto keeps plans that were measured on a device: give --keep F --of latency or --max-latency-ms"
        )


def _plan(made: CompressionPlan, latency: Json, one: dict[str, Any]) -> CompressionPlan:
    """As it was measured."""
    facts = {key: value for key, value in {**latency, **one}.items() if key not in ("plan", "measured", "front")}
    return replace(CompressionPlan.from_json(one["plan"]), adapters=made.adapters, measured={"latency": facts})
