"""Weights that PyTorch computes on every call are worked out once."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from edgecompress.layers import weighted_layers
from edgecompress.models.adapting import adapted, adapted_for

WAYS = {
    "weight_norm, old": weight_norm,
    "spectral_norm, old": spectral_norm,
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "prune twice": lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.3), "weight", 0.3),
    "prune the bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3)], ids=repr)
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_outputs_stay_and_the_users_model_too(way, layer, capsys, request):
    torch.manual_seed(0)
    model = nn.Sequential(way(type(layer)(*((6, 4) if isinstance(layer, nn.Linear) else (3, 4, 3))))).eval()
    given = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, 3, 5, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = model(given)
    made = adapted_for(model, (given,), request.node.name)
    assert "worked out once" in capsys.readouterr().err
    torch.testing.assert_close(made(given), expected)
    assert type(made[0]) is type(layer)
    assert sorted(name for name, _ in made.named_parameters()) == ["0.bias", "0.weight"]
    assert [found.refused for found in weighted_layers(made)] == [""]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    torch.testing.assert_close(model(given), expected)


def test_what_others_compute_stays_refused():
    class Doubled(nn.Module):
        def forward(self, weight):
            return 2 * weight

    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Doubled())
    model = nn.Sequential(layer)
    assert adapted(model, ["folded"]) is model
    assert "parametrized" in weighted_layers(model)[0].refused
