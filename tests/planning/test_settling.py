"""Whole plans are compared: layers whose errors add up are not both cut where another one can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.trials import together_losses
from edgecompress.decompositions import AUTO
from edgecompress.planning import Scope, settling, survey
from edgecompress.planning.candidates import calibrated_candidates
from edgecompress.planning.measuring import Trials
from edgecompress.planning.settling import settled
from edgecompress.progress import silent
from edgecompress.selectors import Budget
from edgecompress.selectors.base import Candidate

WIDTH = 32


class Sums(nn.Module):
    """Two layers of one weight whose outputs are added, so that what both leave out counts four times, and others that
    count slightly more than one of these alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third, self.fourth, self.fifth = (
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(5)
        )
        generator = torch.Generator().manual_seed(0)
        for layer in (self.first, self.third, self.fourth, self.fifth):
            layer.weight.data = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]
        self.second.weight.data = self.first.weight.data.clone()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4 WIDTH)."""
        others = [1.05 * layer(x) for layer in (self.third, self.fourth, self.fifth)]
        return torch.cat([self.first(x) + self.second(x), *others], 1)


def cut_layers() -> tuple[set[str], float]:
    """Which layers are cut, and what that costs together on other inputs."""
    model, generator = Sums().eval(), torch.Generator().manual_seed(1)
    inputs, others = (torch.randn(512, WIDTH, generator=generator) for _ in range(2))
    calibration, seen = Calibration((inputs,), classes=False), survey(model, (inputs,), Scope())
    layers = calibrated_candidates(model, seen.items, calibration, AUTO, 8, silent)
    _, choices = settled(model, layers, seen.total, Budget(keep=0.6), calibration, silent)
    cut = {name for name, choice in choices.items() if isinstance(choice, Candidate)}
    trials = Trials(model, calibration, seen.total, silent)
    trials.measure(layers, choices)
    made = [trial for (name, *_), trial in trials.made.items() if name in cut]
    return cut, float(together_losses(model, (others,), made, classes=False).mean())


def test_layers_whose_errors_add_up_are_not_both_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, loss = cut_layers()
    monkeypatch.setattr(settling, "ROUNDS_TOGETHER", 0)
    alone, more = cut_layers()
    assert len(cut) == len(alone) == 4
    assert {"first", "second"} <= alone
    assert not {"first", "second"} <= cut
    assert loss < 0.9 * more
