"""Losses corrected by trials: what gradients cannot see, as outputs that are silent, is found by trying."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.trials import Trial, trial_losses
from edgecompress.decompositions import AUTO
from edgecompress.models.datasets import Inputs
from edgecompress.planning import Scope, measuring, plan, survey
from edgecompress.planning.candidates import calibrated_candidates
from edgecompress.planning.measuring import Point, corrected_loss, drawn_towards
from edgecompress.plans import Cost
from edgecompress.progress import silent
from edgecompress.selectors import Budget
from edgecompress.selectors.base import Candidate

WIDTH = 32


class Silent(nn.Module):
    """Two layers of orthogonal rows. The outputs of one count as they are, those of the other only below 0.8: none is
    where its inputs are made of signs, so that no gradient reaches it, until its rank is cut."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.loud, self.silent = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        for layer in (self.loud, self.silent):
            layer.weight.data = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
            layer.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """(N, WIDTH)."""
        return self.loud(x) + 30 * torch.relu(0.8 - self.silent(x).abs())


def signs(model: Silent, count: int) -> Tensor:
    """Inputs for which the silent layer gives signs."""
    drawn = torch.randint(0, 2, (count, WIDTH), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    return drawn @ model.silent.weight.detach()


def test_a_layer_that_gradients_do_not_reach_is_not_cut_for_nothing() -> None:
    model = Silent().eval()
    inputs = signs(model, 256)
    calibration, budget, scope = Calibration((inputs,), classes=False), Budget(keep=0.75), Scope()
    seen = survey(model, (inputs,), scope)
    estimated = calibrated_candidates(model, seen.items, calibration, AUTO, scope.multiple, silent)
    by_estimates = budget.select(estimated, seen.total)
    assert isinstance(by_estimates["silent"], Candidate)
    assert isinstance(by_estimates["loud"], str)
    chosen = plan(model, (inputs,), budget, scope, calibration=calibration)
    assert [layer.name for layer in chosen.layers] == ["loud"]


def test_losses_between_measured_points_are_interpolated_and_beyond_them_scaled() -> None:
    known = [(math.log(1.0), math.log(2.0)), (math.log(100.0), math.log(8.0))]
    wanted = {0.1: 0.2, 1.0: 2.0, 10.0: 40.0, 100.0: 800.0, 1000.0: 8000.0}
    for loss, corrected in wanted.items():
        assert corrected_loss(loss, known) == pytest.approx(corrected), loss


def test_what_inputs_disagree_about_is_drawn_towards_the_usual() -> None:
    candidate = Candidate("svd", (8,), 0.1, Cost(1, 1))
    sure = Point.of(candidate, 1.0, torch.full((16,), 8.0, dtype=torch.float64))
    unsure = Point.of(candidate, 1.0, torch.tensor([128.0] + [0.0] * 15, dtype=torch.float64))
    assert sure.off == unsure.off == pytest.approx(math.log(8))
    assert drawn_towards(0.0, 0.5, sure) == pytest.approx(math.log(8))
    assert 0 < drawn_towards(0.0, 0.5, unsure) < 0.5 * math.log(8)


def rounds_of_trials(monkeypatch: pytest.MonkeyPatch, most_in_all: float, large_macs: float) -> list[int]:
    """Inputs that each round of a plan's trials runs on, times its trials."""
    rounds: list[int] = []

    def watched(model: nn.Module, inputs: Inputs, trials: Sequence[Trial], *, classes: bool) -> Tensor:
        rounds.append(len(inputs[0]) * len(trials))
        return trial_losses(model, inputs, trials, classes=classes)

    monkeypatch.setattr(measuring, "trial_losses", watched)
    monkeypatch.setattr(measuring, "MOST_IN_ALL", most_in_all)
    monkeypatch.setattr(measuring, "LARGE_MACS", large_macs)
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in range(5) for part in (nn.Linear(24, 24), nn.Tanh()))).eval()
    inputs = torch.randn(128, 24)
    plan(model, (inputs,), Budget(0.6), calibration=Calibration((inputs,)), multiple=1)
    return rounds


def test_all_rounds_of_trials_of_a_large_model_have_one_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    macs = 5 * 24 * 24
    free = rounds_of_trials(monkeypatch, 1e18, 0)
    assert len(free) > 2
    assert free[1] > 0
    assert rounds_of_trials(monkeypatch, 0, 10**9) == free, "small models are not held to it"
    assert rounds_of_trials(monkeypatch, 0, 0) == free[:1], "the first round is always run"
    some = free[0] + free[1] // 2
    limited = rounds_of_trials(monkeypatch, some * macs / 2, 0)
    assert limited[0] == free[0]
    assert 0 < sum(limited[1:]) <= some - free[0]
