"""Candidates of one layer: what they change, and what that costs, by factorizations that they share."""

import pytest
import torch
from torch import nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.moments import FewMoments, collect
from edgecompress.calibrating.sensitivity import Components, change_losses, output_metrics
from edgecompress.decompositions.kernels import kernels
from edgecompress.planning import plan
from edgecompress.planning.fits import Fits
from edgecompress.plans import Cost
from edgecompress.selectors import Budget
from edgecompress.selectors.base import Candidate


def wide_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 10))


def inputs(count=32):
    return (torch.randn(count, 60, generator=torch.Generator().manual_seed(1)),)


@pytest.mark.parametrize("with_metric", [True, False], ids=["metric", "no metric"])
def test_what_svds_change_of_outputs_costs_what_their_changes_of_the_weight_do(monkeypatch, with_metric):
    monkeypatch.setattr("edgecompress.calibrating.moments.MOST_MATRIX", 16)
    model = wide_net()
    moments = collect(model, inputs(), ("0",))["0"]
    assert isinstance(moments, FewMoments)
    metric = output_metrics(model, inputs(), ("0",))["0"] if with_metric else None
    fits = Fits(kernels(model[0]), moments.centred, metric)
    chosen = [Candidate("svd", (rank,), fits.errors("svd", [(rank,)])[0], Cost(1, 1)) for rank in (3, 10, 30)]
    components = fits.changes(chosen)
    assert isinstance(components, Components)
    weights = torch.stack([fits.change(candidate) for candidate in chosen])
    losses = [change_losses(model, inputs(), {"0": of}, {"0": moments.mean})["0"] for of in (components, weights)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-9)


def test_layers_of_more_inputs_than_are_given_are_planned_and_say_so(monkeypatch):
    monkeypatch.setattr("edgecompress.calibrating.moments.MOST_MATRIX", 16)
    model = wide_net()
    made = plan(model, inputs(2), Budget(0.6), multiple=2, calibration=Calibration(inputs(), classes=False))
    assert "fewer calibration inputs" in {layer.name: layer.note for layer in made.layers}["0"]
    assert all(layer.loss is not None for layer in made.layers)


def test_losses_in_several_passes_are_those_of_one(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 6))
    calibration = Calibration((torch.randn(20, 3, 10, 10),))
    whole = plan(model, calibration.inputs, Budget(0.7), multiple=2, calibration=calibration)
    monkeypatch.setattr("edgecompress.planning.scoring.MOST_CHANGE_BYTES", 1)
    several = plan(model, calibration.inputs, Budget(0.7), multiple=2, calibration=Calibration(calibration.inputs))
    assert [layer.ranks for layer in several.layers] == [layer.ranks for layer in whole.layers]
    for one, other in zip(several.layers, whole.layers, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_the_widest_layers_are_fitted_by_methods_whose_ranks_share_a_factorization(monkeypatch):
    monkeypatch.setattr("edgecompress.planning.candidates.WIDEST", 50)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.Flatten())
    calibration = Calibration((torch.randn(20, 3, 10, 10),), classes=False)
    made = plan(model, calibration.inputs, Budget(0.7), multiple=2, calibration=calibration)
    why = {name: {other.method: other.why for other in made.rejected if other.layer == name} for name in ("0", "2")}
    assert {"cp3", "hierarchical_tucker2"} & why["0"].keys()
    assert not any(reason.startswith("not tried") for reason in why["0"].values())
    wide = "not tried: it takes minutes with 72 inputs a patch, over 50"
    assert [why["2"][method] for method in ("cp3", "hierarchical_tucker2")] == [wide, wide]
    named = plan(model, calibration.inputs, Budget(0.7), methods=["cp3"], multiple=2, calibration=calibration)
    assert {layer.method for layer in named.layers} == {"cp3"}
