"""Trials: the outputs of the whole model with one layer changed, from that layer on."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from edgecompress.calibrating.trials import Trial, divergences, joint_losses, together_losses, trial_losses
from edgecompress.decompositions.kernels import kernels, weight_from, weight_of
from edgecompress.models import as_outputs


class Awkward(nn.Module):
    """In-place functions, a shortcut, a layer that runs twice, one that never does, groups, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act, self.grouped = nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.twice, self.up = nn.Conv2d(8, 8, 1), nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.never, self.head = nn.Linear(4, 4), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.act(self.norm(self.stem(x)))
        y = self.twice(self.twice(x).relu_())
        y += self.grouped(x).relu_()
        up = self.up(y)
        return self.head(up.mean((2, 3))), up


def with_changes(model: nn.Module, trials: Sequence[Trial], inputs: Tensor) -> Tensor:
    """The losses by a whole run of a changed copy."""
    other = copy.deepcopy(model)
    for trial in trials:
        layer = other.get_submodule(trial.name)
        own = kernels(layer).double()
        weight_of(layer).data = weight_from(layer, own + trial.change.reshape(own.shape)).float()
        assert isinstance(layer.bias, Tensor)
        layer.bias.data += trial.shift.flatten().float()
    with torch.no_grad():
        return divergences(as_outputs(model(inputs)), as_outputs(other(inputs)), classes=False)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Awkward().eval()


def trial_of(model: nn.Module, name: str) -> Trial:
    own = kernels(model.get_submodule(name)).double()
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(own.shape, generator=generator, dtype=torch.float64)
    return Trial(name, 0.1 * noise.flatten(2), torch.randn(own.shape[:2], generator=generator, dtype=torch.float64))


def test_a_trial_is_a_run_with_that_layer_alone_changed(model: nn.Module) -> None:
    inputs = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trials = [trial_of(model, name) for name in ("head", "stem", "twice", "grouped", "up", "never", "stem")]
    found = trial_losses(model, (inputs,), trials, classes=False)
    for trial, losses in zip(trials, found, strict=True):
        wanted = with_changes(model, [trial], inputs)
        assert torch.allclose(losses, wanted, rtol=1e-4, atol=1e-9), trial.name
        assert bool(losses.any()) is (trial.name != "never"), trial.name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_trials_together_and_without_each_are_runs_with_those_layers_changed(model: nn.Module) -> None:
    inputs = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trials = [trial_of(model, name) for name in ("head", "stem", "twice", "grouped", "up", "never")]
    found, wanted = joint_losses(model, (inputs,), trials, classes=False), with_changes(model, trials, inputs)
    assert torch.allclose(found.together, wanted, rtol=1e-4)
    assert torch.allclose(together_losses(model, (inputs,), trials, classes=False), wanted, rtol=1e-4)
    for trial, losses in zip(trials, found.without, strict=True):
        others = [other for other in trials if other is not trial]
        assert torch.allclose(losses, with_changes(model, others, inputs), rtol=1e-4), trial.name
        assert torch.allclose(losses, found.together, rtol=1e-5) is (trial.name == "never"), trial.name
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_the_divergence_of_classes_is_that_of_softened_probabilities() -> None:
    dense = torch.tensor([[4.0, 0.0], [0.0, 0.0]])
    moved = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    first, second = divergences((dense,), (moved,), classes=True)
    share = float(torch.tensor([1.0, 0.0]).softmax(0)[0])
    by_hand = 16 * (share * torch.tensor(2 * share).log() + (1 - share) * torch.tensor(2 * (1 - share)).log())
    assert float(first) == pytest.approx(float(by_hand))
    assert float(second) == pytest.approx(0, abs=1e-12)
