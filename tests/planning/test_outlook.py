"""What a plan is expected to cost: its warnings, and what other budgets would cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgecompress.planning.outlook import outlook, warnings_of
from edgecompress.plans import CompressionPlan, Cost, LayerPlan
from edgecompress.selectors import SELECTORS, Budget
from edgecompress.selectors.base import Candidate, LayerCandidates


def layers(*losses: float | None) -> list[LayerCandidates]:
    """Each of 100 MACs, with candidates at 20, 50 and 80 of them that lose 4, 2 and 1 times ``losses``."""
    sizes = {20: 4, 50: 2, 80: 1}
    return [
        LayerCandidates(
            f"conv{number}",
            (8, 8),
            Cost(100, 100),
            tuple(
                Candidate("svd", (macs,), 0.1, Cost(macs, macs), loss and times * loss) for macs, times in sizes.items()
            ),
        )
        for number, loss in enumerate(losses)
    ]


def test_larger_budgets_are_predicted_to_cost_less() -> None:
    found = outlook(Budget(0.42), layers(0.1, 0.2), Cost(200, 200))
    assert [keep for keep, _ in found] == [0.42, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    losses = [loss for _, loss in found]
    assert losses == sorted(losses, reverse=True)
    assert dict(found)[0.5] == pytest.approx(0.1 * 2 + 0.2 * 2)


def test_what_is_not_known_is_not_made_up() -> None:
    assert outlook(Budget(0.5), layers(None, None), Cost(200, 200)) == ()
    assert outlook(SELECTORS["energy"], layers(0.1), Cost(100, 100)) == ()


def planned(*layers: tuple[str, float, float | None]) -> CompressionPlan:
    made = tuple(LayerPlan(name, "svd", (4,), (8, 8), error, loss) for name, error, loss in layers)
    return CompressionPlan(layers=made, outlook=((0.4, 0.3), (0.6, 0.21), (0.7, 0.15)))


def test_a_harmless_plan_has_no_warning() -> None:
    assert list(warnings_of(planned(("conv", 0.29, 0.1), ("fc", 0.1, None)))) == []


def test_layers_that_lose_much_are_named_with_the_way_out() -> None:
    (few,) = warnings_of(planned(("conv", 0.62, 0.01), ("fc", 0.1, 0.02)))
    assert few.startswith("a layer loses more than 30 % of what it gives, by its error: conv (0.62)")
    assert "--exclude 'conv', or ask for a higher --keep" in few
    (many,) = warnings_of(planned(*((f"conv{number}", 0.3 + number / 100, 0.001) for number in range(9))))
    assert "each of 8 layers" in many
    assert "conv8 (0.38), conv7 (0.37), conv6 (0.36), conv5 (0.35) and 4 more" in many


def test_a_large_predicted_loss_names_the_budget_that_is_expected_to_cost_little() -> None:
    plan = planned(("conv", 0.2, 0.25), ("fc", 0.1, 0.05))
    (warning,) = warnings_of(plan)
    assert "a predicted loss of 0.3, most of it from conv (0.25), fc (0.05)" in warning
    assert "--exclude 'conv', or ask for --keep 0.7, with a predicted loss of 0.15" in warning
    assert next(warnings_of(replace(plan, outlook=()))).endswith("or ask for a higher --keep")


def test_it_is_saved_with_the_plan() -> None:
    plan = planned(("conv", 0.2, 0.25))
    assert CompressionPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("method", "after", "told"), [
    ("svd", Cost(80, 100), True),
    ("svd", Cost(80, 101), True),
    ("svd", Cost(80, 90), False),
    ("svd", Cost(99, 100), False),
    ("ada_tucker", Cost(80, 100), False),
])  # fmt: skip
def test_a_smaller_model_that_is_no_faster_is_told_with_the_way_out(method: str, after: Cost, told: bool) -> None:
    layer = LayerPlan("table", method, (4,), (8, 8), 0.1, 0.01)
    plan = CompressionPlan(layers=(layer,), dense=Cost(100, 100), compressed=after)
    warnings = list(warnings_of(plan))
    assert len(warnings) == told
    if told:
        assert warnings[0].startswith("smaller and not faster: 0.80 of the parameters and 1.0")
        assert "--max-macs 70 too" in warnings[0]
