"""The nearer of an asymmetric and a symmetric refit is taken, on inputs that neither was fitted to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompress.calibrating import MOST_HELD, Calibration
from edgecompress.calibrating.trials import outputs_apart
from edgecompress.decomposing.choosing import refit_nearest
from edgecompress.decomposing.refitting import MOST_INPUTS, refit
from edgecompress.planning import plan
from edgecompress.selectors import Budget


def deep() -> nn.Module:
    torch.manual_seed(0)
    layers = [part for _ in range(4) for part in (nn.Linear(24, 24), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(24, 8)).eval()


@pytest.mark.parametrize("count", [24, MOST_INPUTS + MOST_HELD])
def test_it_is_the_one_whose_outputs_are_nearer_on_others(count: int) -> None:
    model, inputs = deep(), (torch.randn(count, 24, generator=torch.Generator().manual_seed(count)),)
    calibration = Calibration(inputs, classes=False)
    made = plan(model, inputs, Budget(0.5), multiple=2)
    few = Calibration(calibration.fitting, classes=False)
    each = [refit(model, made, few, asymmetric=way) for way in (True, False)]
    asymmetric_apart, symmetric_apart = outputs_apart(model, each, calibration.held(MOST_HELD), classes=False)
    assert asymmetric_apart != symmetric_apart
    chosen, asymmetric = refit_nearest(model, made, calibration)
    assert asymmetric is (asymmetric_apart < symmetric_apart)
    wanted = refit(model, made, calibration if count < MOST_INPUTS else few, asymmetric=asymmetric)
    assert all(map(torch.equal, chosen.state_dict().values(), wanted.state_dict().values()))


def test_of_inputs_too_few_to_hold_any_back_it_is_asymmetric() -> None:
    model, inputs = deep(), (torch.randn(4, 24, generator=torch.Generator().manual_seed(0)),)
    made = plan(model, inputs, Budget(0.5), multiple=2)
    chosen, asymmetric = refit_nearest(model, made, Calibration(inputs, classes=False))
    wanted = refit(model, made, Calibration(inputs, classes=False))
    assert asymmetric
    assert all(map(torch.equal, chosen.state_dict().values(), wanted.state_dict().values()))
