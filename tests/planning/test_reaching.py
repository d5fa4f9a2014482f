"""Layers that run in vain, and layers whose weight is used without a run."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompress.calibrating import Calibration
from edgecompress.costs import chain_cost
from edgecompress.planning import Scope, plan, survey
from edgecompress.planning.reaching import IN_VAIN, READ, connected, unreached
from edgecompress.selectors import Budget

INPUTS = (torch.randn(4, 32, generator=torch.Generator().manual_seed(0)),)


class Net(nn.Module):
    """Three layers, of which a subclass uses the second in its own way."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.side, self.head = nn.Linear(32, 64), nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        hidden = self.body(x).relu()
        return self.head(hidden) + self.beside(hidden)

    def beside(self, hidden):
        return self.side(hidden)


class Dropped(Net):
    def beside(self, hidden):
        self.side(hidden)
        return 0


class Detached(Net):
    def beside(self, hidden):
        return self.side(hidden).detach()


class Chosen(Net):
    def beside(self, hidden):
        return self.side(hidden).argmax(1, keepdim=True)


class Functional(Net):
    def beside(self, hidden):
        return functional.linear(hidden, self.side.weight)


class Silent(Net):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)


class Looking(Dropped):
    def forward(self, x):
        return super().forward(x) if float(x.sum()) < 1e9 else x


def reasons_of(model):
    return unreached(model.eval(), INPUTS, {"body": True, "side": not isinstance(model, Functional), "head": True})


@pytest.mark.parametrize("kind", [Net, Detached, Chosen, Silent])
def test_what_reaches_an_output_by_any_way_is_kept(kind):
    assert reasons_of(kind()) == {}


@pytest.mark.parametrize("kind", [Dropped, Looking])
def test_what_reaches_no_output_is_found(kind):
    assert reasons_of(kind()) == {"side": IN_VAIN}


def test_a_weight_that_is_used_without_its_layer_is_found():
    assert reasons_of(Functional()) == {"side": READ}


def test_without_gradients_nothing_can_be_seen():
    assert connected(Silent().eval(), INPUTS, ["body"]) is None
    assert connected(Net().eval(), INPUTS, ["body", "head"]) == {"body", "head"}


@pytest.mark.parametrize("kind", [Net, Dropped])
def test_a_plan_weighs_losses_beside_a_layer_that_runs_in_vain(kind):
    inputs = (torch.randn(128, 32, generator=torch.Generator().manual_seed(1)),)
    made = plan(kind(), INPUTS, Budget(keep=0.9, of="params"), calibration=Calibration(inputs, classes=False))
    assert all(layer.loss is not None for layer in made.layers)
    reasons = {skip.name: skip.reason for skip in made.skipped}
    assert (reasons.get("side") == IN_VAIN) == (kind is Dropped)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"num_layers": 2, "batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.covering(1)
def test_a_recurrent_layer_is_refused_with_its_share_of_the_macs(kind, options):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows, self.head = kind(32, 64, **options), nn.Linear(64 * (1 + ("bidirectional" in options)), 64)

        def forward(self, x):
            return self.head(self.rows(x)[0])

    model, inputs = Recurrent().eval(), (torch.randn(2, 7, 32),)
    seen = survey(model, inputs, Scope())
    head = chain_cost(model.head, [(1, 7, model.head.in_features)])
    own = chain_cost(model.rows, [(1, 7, 32)])
    assert own.macs == seen.total.macs - head.macs
    assert "recurrent; its matrices stay" in seen.reasons["rows"]
    assert seen.reasons["rows"].endswith(f"({100 * own.macs / seen.total.macs:.0f} % of the model's MACs)")
