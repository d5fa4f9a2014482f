"""Im2col patches against PyTorch's own layers, and the moments that are collected of them."""

import pytest
import torch
from torch import nn

from edgecompress.calibrating import batching
from edgecompress.calibrating import patches as unfolding
from edgecompress.calibrating.moments import collect, in_passes, moment_bytes
from edgecompress.calibrating.patches import output_rows, patches
from edgecompress.decompositions.kernels import kernels
from edgecompress.errors import ModelError
from tests.geometries import build, everywhere, input_for


def outputs_without_bias(layer, x):
    out = layer(x)
    if layer.bias is None:
        return out
    return out - (layer.bias if isinstance(layer, nn.Linear) else layer.bias.reshape(-1, *[1] * (out.dim() - 2)))


@everywhere
def test_kernels_times_patches_are_the_outputs_and_all_positions_are_all_of_them(geometry):
    layer, x = build(geometry), input_for(geometry)
    out, linear = layer(x), outputs_without_bias(layer, x)
    for most, offset in [(10**6, 0), (7, 0), (7, 1), (20, 5), (1, 3)]:
        rows = kernels(layer).flatten(2) @ patches(layer, x, offset=offset, most=most)
        expected = output_rows(layer, linear, offset=offset, most=most)
        torch.testing.assert_close(rows, expected, rtol=1e-10, atol=1e-10)
    rows = output_rows(layer, out, most=out.numel())
    assert rows.shape[:2] == kernels(layer).shape[:2]
    assert rows.numel() == out.numel()
    torch.testing.assert_close(rows.sum(), out.sum())


@pytest.mark.parametrize(("size", "most"), [((32, 32), 256), ((224, 224), 256), ((7, 5), 10), ((100,), 10)], ids=str)
def test_about_as_many_positions_as_asked_for_and_each_in_its_turn(size, most):
    conv = (nn.Conv1d if len(size) == 1 else nn.Conv2d)(1, 1, 1)
    given = torch.arange(float(torch.Size(size).numel())).reshape(1, 1, *size)
    taken = [patches(conv, given, offset=offset, most=most).flatten().tolist() for offset in range(300)]
    assert all(1 <= len(positions) <= 1.3 * most + sum(size) for positions in taken)
    assert {position for positions in taken for position in positions} == set(given.flatten().tolist())


class Net(nn.Module):
    """Convolutions, one grouped and one transposed, and a Linear; something that never runs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm, self.drop = nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.grouped = nn.Conv2d(6, 4, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 5, 2, stride=2)
        self.head, self.spare = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, x):
        x = self.up(self.grouped(torch.relu(self.norm(self.stem(x)))))
        return self.head(self.drop(x.mean((2, 3))))


NAMES = ("stem", "grouped", "up", "head")


def net_and_inputs(count=70, seed=0):
    """More inputs than a batch, and fewer positions than are sampled."""
    torch.manual_seed(seed)
    return Net(), (torch.randn(count, 3, 10, 10),)


def given_to(model, inputs, name):
    found = []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _layer, args: found.append(args[0]))
    with torch.no_grad():
        model.eval()(*inputs)
    handle.remove()
    return found[0].double()


@pytest.mark.parametrize("name", NAMES)
def test_moments_are_the_averages_over_all_patches(name):
    model, inputs = net_and_inputs()
    found = collect(model, inputs, NAMES)[name]
    layer = model.get_submodule(name)
    given = given_to(model, inputs, name)
    rows = patches(layer, given, most=10**9)
    assert found.count == rows.shape[2]
    torch.testing.assert_close(found.second, rows @ rows.mT / rows.shape[2], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.mean, rows.mean(2), rtol=1e-5, atol=1e-6)
    assert found.second.dtype == found.mean.dtype == torch.float64


def test_patches_are_unfolded_a_few_inputs_at_a_time(monkeypatch):
    model, inputs = net_and_inputs()
    whole = collect(model, inputs, NAMES)
    monkeypatch.setattr(unfolding, "MOST_PATCH_BYTES", 1)
    bit_by_bit = collect(model, inputs, NAMES)
    for name in NAMES:
        assert whole[name].count == bit_by_bit[name].count
        torch.testing.assert_close(whole[name].second, bit_by_bit[name].second, rtol=1e-5, atol=1e-6)


def test_sampled_positions_tell_what_all_do(monkeypatch):
    """256 of 3,136 positions of 64 noisy images, others in each of 16 batches: the border counts as much as it is."""
    monkeypatch.setattr(batching, "MOST_AT_ONCE", 4)
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 2, 3, padding=1), torch.randn(64, 2, 56, 56)
    found = collect(nn.Sequential(conv), (x,), ("0",))["0"]
    rows = patches(conv, x, most=10**9).double()
    assert found.count < rows.shape[2] / 10
    torch.testing.assert_close(found.second, rows @ rows.mT / rows.shape[2], rtol=0.05, atol=0.05)


def test_a_layer_that_never_runs_has_no_moments():
    model, inputs = net_and_inputs(2)
    assert set(collect(model, inputs, (*NAMES, "spare"))) == set(NAMES)


def test_a_layer_that_runs_twice_counts_twice():
    torch.manual_seed(0)
    layer, x = nn.Linear(4, 4), torch.randn(8, 4)
    found = collect(nn.Sequential(layer, nn.ReLU(), layer), (x,), ("0",))["0"]
    rows = torch.cat([x, layer(x).relu()]).detach().double().T
    assert found.count == 16
    torch.testing.assert_close(found.second[0], rows @ rows.T / 16, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("most", [1, 10_000, 30_000, 10**9])
def test_passes_hold_at_most_so_many_bytes_and_every_layer_once(most):
    layers = {name: Net().get_submodule(name) for name in NAMES}
    parts = list(in_passes(layers, most))
    assert [name for part in parts for name in part] == list(NAMES)
    for part in parts:
        assert len(part) == 1 or sum(moment_bytes(layers[name]) for name in part) <= most
    assert len(parts) == {1: 4, 10_000: 3, 30_000: 1, 10**9: 1}[most]


def test_the_bytes_told_are_those_held():
    model, inputs = net_and_inputs(2)
    for name, found in collect(model, inputs, NAMES).items():
        assert found.spread.nbytes == moment_bytes(model.get_submodule(name))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("name", ["stem", "grouped", "head"])
def test_numbers_that_are_not_finite_are_refused_where_they_are_first_met(name, value):
    model, (x,) = net_and_inputs(4)
    if name == "stem":
        x[2, 1, 3, 3] = value
    else:
        before = {"grouped": model.norm, "head": model.up}[name]
        before.bias.data[0] = value
    with pytest.raises(ModelError, match=rf"^{name}: is given NaN or infinity"):
        collect(model, (x,), NAMES)
    assert not hooks_of(model)


def hooks_of(model):
    return [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_the_model_and_its_modes_are_left_as_they_were():
    model, inputs = net_and_inputs(4)
    model.train()
    model.grouped.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    collect(model, inputs, NAMES)
    assert [module.training for module in model.modules()] == modes
    assert not hooks_of(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_collecting_is_deterministic():
    first, second = (collect(*net_and_inputs(), NAMES) for _ in range(2))
    assert all(torch.equal(first[name].second, second[name].second) for name in NAMES)


class Attended(nn.Module):
    """Two Linears on one tensor, another on a copy of it; ``often`` calls the second once more, on something else."""

    def __init__(self, *, often=False, changed=False):
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(4, size) for size in (3, 5, 2))
        self.often, self.changed = often, changed

    def forward(self, x):
        x = torch.relu(x)
        found = self.q(x).sum(1)
        if self.changed:
            x.mul_(2)
        found = found + self.k(x).sum(1) + self.v(x.clone()).sum(1)
        return found + self.k(3 * x).sum(1) if self.often else found


def test_layers_given_one_tensor_share_their_moments():
    torch.manual_seed(1)
    found = collect(Attended(), (torch.randn(40, 4),), ["q", "k", "v"])
    assert found["q"] is found["k"]
    assert found["v"] is not found["q"]
    torch.testing.assert_close(found["v"].second, found["q"].second)


@pytest.mark.parametrize("more", [{"often": True}, {"changed": True}], ids=str)
def test_layers_given_something_else_have_moments_of_their_own(more):
    torch.manual_seed(1)
    model, x = Attended(**more), torch.randn(40, 4)
    found = collect(model, (x,), ["q", "k", "v"])
    for name in ("q", "k", "v"):
        alone = collect(model, (x,), [name])[name]
        torch.testing.assert_close(found[name].second, alone.second)
        assert found[name].count == alone.count
    assert found["k"] is not found["q"]
