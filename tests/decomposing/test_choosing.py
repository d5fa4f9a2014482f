"""The nearer of an asymmetric and a symmetric refit is taken, on inputs that neither was fitted to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompress.calibrating import MOST_HELD, Calibration
from edgecompress.calibrating.trials import outputs_apart
from edgecompress.decomposing import choosing, decompose, fill_from
from edgecompress.decomposing.choosing import refit_nearest
from edgecompress.decomposing.hollow import hollow, is_hollow
from edgecompress.decomposing.refitting import MOST_INPUTS, refit, refit_both_ways
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


def test_weights_that_need_not_differ_are_in_memory_once() -> None:
    model, inputs = deep(), (torch.randn(64, 24, generator=torch.Generator().manual_seed(0)),)
    calibration = Calibration(inputs, classes=False)
    made = plan(model, inputs, Budget(0.5), multiple=2)
    ways = refit_both_ways(model, made, calibration)
    chains = {way: [kept.get_submodule(layer.name) for layer in made.layers] for way, kept in ways.items()}
    same = [
        one.reduce.weight.data_ptr() == other.reduce.weight.data_ptr()
        for one, other in zip(*chains.values(), strict=True)
    ]
    assert same == [True] + [False] * (len(made.layers) - 1), "what is given to the first layer is the same in both"
    dense = {parameter.data_ptr() for parameter in model.parameters()}
    assert {p.data_ptr() for p in ways[True][0].parameters()} & dense == set()
    chosen, _ = refit_nearest(model, made, calibration)
    assert {p.data_ptr() for p in chosen.parameters()} & dense == set(), "what is given out is nobody else's"


def test_chains_take_no_memory_before_they_are_fitted() -> None:
    model = deep()
    made = plan(model, (torch.randn(2, 24),), Budget(0.5), multiple=2)
    chain = decompose(model, made, fill=False).get_submodule(made.layers[0].name)
    hollow(chain)
    assert [is_hollow(p) for p in chain.parameters()] == [True, True, False]
    assert chain(torch.randn(3, 24)).shape == (3, 24)
    fill_from(chain, model.get_submodule(made.layers[0].name), made.layers[0])
    assert not any(is_hollow(p) for p in chain.parameters())
    whole = decompose(model, made).get_submodule(made.layers[0].name)
    assert all(map(torch.equal, chain.state_dict().values(), whole.state_dict().values()))


class Residual(nn.Module):
    """Layers whose outputs are added to what they are given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(x + layer(x))
        return x


@pytest.mark.parametrize("third", [0.1, 0.9])
def test_where_the_asymmetric_one_is_farther_it_is_tried_without_shortcuts(
    monkeypatch: pytest.MonkeyPatch, third: float
) -> None:
    model, inputs = Residual().eval(), (torch.randn(MOST_INPUTS + MOST_HELD, 16),)
    calibration = Calibration(inputs, classes=False)
    made = plan(model, inputs, Budget(0.5), multiple=2)
    few = Calibration(calibration.fitting, classes=False)
    said = iter([[0.6, 0.5], [third]])
    monkeypatch.setattr(choosing, "outputs_apart", lambda *_args, **_kwargs: next(said))
    chosen, asymmetric = refit_nearest(model, made, calibration)
    assert asymmetric is (third < 0.5)
    wanted = refit(model, made, few, asymmetric=asymmetric, shortcuts=False)
    assert all(map(torch.equal, chosen.state_dict().values(), wanted.state_dict().values()))
    with_shortcuts = refit(model, made, few)
    assert not all(map(torch.equal, with_shortcuts.state_dict().values(), wanted.state_dict().values()))
