"""Tucker forms of reshaped weights: exact where they must be, of the right variance, shared where they are shared."""

from __future__ import annotations

import pytest
import tensorly
import torch
from torch import Tensor, nn

from edgecompress.codecs.ada_tucker import baked, factors_of, install, refresh, stored_layers, stored_params
from edgecompress.codecs.dimensions import balanced
from edgecompress.codecs.tucker import contracted, hosvd, padded, shared_tucker, unit_sized
from edgecompress.costs import cost
from edgecompress.decomposing import decompose
from edgecompress.errors import PlanError
from edgecompress.finetuning import state_digest
from edgecompress.models import copied
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped

SHAPES = [(4, 5, 6), (3, 4, 2, 5), (2, 3, 2, 4, 3)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_contracting_is_what_tensorly_does(shape: tuple[int, ...]) -> None:
    ranks = tuple(max(1, size - 1) for size in shape)
    core, matrices = random(*ranks), [random(d, r, seed=d + 7 * r) for d, r in zip(shape, ranks, strict=True)]
    expected = tensorly.tucker_to_tensor((core.numpy(), [matrix.numpy() for matrix in matrices]))
    assert torch.allclose(contracted(core, *matrices), torch.from_numpy(expected), atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_hosvd_is_exact_at_full_ranks_and_no_worse_than_its_bound_below(shape: tuple[int, ...]) -> None:
    tensor = random(*shape)
    assert torch.allclose(contracted(*hosvd(tensor, shape)), tensor, atol=1e-10)
    ranks = tuple(max(1, size - 1) for size in shape)
    lost = (contracted(*hosvd(tensor, ranks)) - tensor).square().sum()
    tails = [
        torch.linalg.svdvals(tensor.movedim(mode, 0).flatten(1))[rank:].square().sum()
        for mode, rank in enumerate(ranks)
    ]
    assert lost <= sum(tails) + 1e-9


def test_a_planted_shared_core_is_found() -> None:
    core = random(3, 3, 3)
    sizes = [(6, 7, 8), (9, 5, 7), (4, 5, 9)]
    planted = [contracted(core, *(random(d, 3, seed=9 * at + d) for d in dims)) for at, dims in enumerate(sizes)]
    scaled = [factor * tensor for factor, tensor in zip((1.0, 50.0, 0.02), planted, strict=True)]
    found, fitted = shared_tucker(scaled, (3, 3, 3))
    for tensor, matrices in zip(scaled, fitted, strict=True):
        assert (contracted(found, *matrices) - tensor).norm() < 0.1 * tensor.norm()
        assert (contracted(*hosvd(tensor, (1, 1, 1))) - tensor).norm() > 0.4 * tensor.norm()


def test_factors_of_unit_size_and_a_scale_are_the_same_tensor() -> None:
    factors = (random(2, 2, 2), *(10.0**at * random(4, 2, seed=at) for at in range(3)))
    unit, scale = unit_sized(factors)
    assert torch.allclose(scale * contracted(*unit), contracted(*factors))
    assert all(abs(float(factor.square().mean()) - 1) < 1e-12 for factor in unit)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 10, 3), nn.ReLU(), nn.Conv1d(2, 2, 1), nn.Flatten(), nn.Linear(72, 11, bias=False)
    )


def plans(method: str, rank: int, order: int = 3) -> tuple[LayerPlan, ...]:
    model = net()
    found = []
    for name in ("0", "4"):
        shape = tuple(model.get_submodule(name).weight.shape)  # type: ignore[union-attr, arg-type]
        found.append(LayerPlan(name, method, (rank,) * order, shape, 0.0))
    return tuple(found)


@pytest.mark.parametrize("order", [3, 4, 5])
def test_a_layer_at_full_ranks_computes_what_it_did(order: int) -> None:
    torch.manual_seed(0)
    for layer in (nn.Conv2d(4, 6, 3, groups=2), nn.Linear(12, 20), nn.Conv1d(4, 6, 5)):
        shape = tuple(layer.weight.shape)
        dims = balanced(shape, order)
        model = nn.Sequential(copied(layer))
        install(model, [LayerPlan("0", "ada_tucker", dims, shape, 0.0, None, dims)], shared=False)
        assert torch.allclose(model[0].weight, layer.weight, atol=1e-5)
        assert type(layer) in type(model[0]).__mro__


def test_padding_is_cut_off_again() -> None:
    layer = nn.Linear(1, 431, bias=False)
    model = nn.Sequential(copied(layer))
    install(model, [LayerPlan("0", "ada_tucker", (6, 8, 9), (431, 1), 0.0, None, (6, 8, 9))], shared=False)
    assert torch.allclose(model[0].weight, layer.weight, atol=1e-5)
    assert padded(layer.weight, (6, 8, 9)).flatten()[431] == 0


def test_fresh_factors_give_weights_of_he_variance_and_no_mean() -> None:
    layer = nn.Linear(400, 300)
    for rank in (4, 12):
        spread = []
        for seed in range(6):
            model = nn.Sequential(copied(layer))
            install(model, [LayerPlan("0", "ada_tucker", (rank,) * 3, (300, 400), 0.0)], shared=False, fill=False)
            refresh(model, seed)
            spread.append(float(model[0].weight.detach().var()) * 400 / 2)
        assert 0.6 < sum(spread) / len(spread) < 1.5


def test_a_shared_core_is_one_parameter_that_every_layer_teaches() -> None:
    model = net()
    layers = plans("scada_tucker", 3)
    install(model, layers, shared=True, fill=False)
    refresh(model, 0)
    (_, first, _), (_, second, _) = stored_layers(model)
    core = factors_of(first)[0]
    assert core is factors_of(second)[0]
    counted = sum(p.numel() for _, layer, _ in stored_layers(model) for p in factors_of(layer)) - core.numel()
    assert counted == stored_params(layers, shared=True)
    first.weight.sum().backward(retain_graph=True)  # type: ignore[union-attr, operator]
    one = core.grad.clone()  # type: ignore[union-attr]
    second.weight.sum().backward()  # type: ignore[union-attr, operator]
    assert not torch.equal(core.grad, one)
    assert factors_of(copied(model).get_submodule("0"))[0] is not core
    twin = copied(model)
    assert factors_of(twin.get_submodule("0"))[0] is factors_of(twin.get_submodule("4"))[0]


@pytest.mark.parametrize("method", ["ada_tucker", "scada_tucker"])
def test_plan_and_state_rebuild_the_model_and_macs_do_not_change(method: str) -> None:
    dense, inputs = net()[:2], (torch.randn(2, 4, 6, 6),)
    before = cost(dense, inputs)
    plan = CompressionPlan(layers=plans(method, 2)[:1])
    small = decompose(dense, plan)
    again = decompose(dense, plan, fill=False)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(*inputs), small(*inputs))
    after = cost(small, inputs)
    assert after.macs == before.macs
    assert after.params == stored_params(plan.layers, shared=False) + 10 < before.params
    assert torch.equal(baked(copied(small))(*inputs), small(*inputs))
    assert "weight" in dict(dense[0].named_parameters())


def test_a_plan_may_name_its_layers_in_any_order() -> None:
    forth, back = net(), net()
    layers = plans("scada_tucker", 3)
    install(forth, layers, shared=True)
    install(back, layers[::-1], shared=True)
    for model in (forth, back):
        for name, layer, _ in stored_layers(model):
            weight = net().get_submodule(name).weight
            assert (layer.weight - weight).norm() < weight.norm()  # type: ignore[operator]


def test_baking_a_copy_leaves_the_original_and_other_copies_alone() -> None:
    model = net()
    install(model, plans("ada_tucker", 2), shared=False)
    digest, twin = state_digest(model), copied(model)
    plain = baked(copied(model))
    assert set(plain.state_dict()) == set(net().state_dict())
    assert state_digest(model) == state_digest(twin) == digest
    assert torch.equal(plain[4].weight, model[4].weight)


def test_what_does_not_go_together_is_refused() -> None:
    dense = net()
    conv, linear = plans("scada_tucker", 3)
    other = LayerPlan("4", "scada_tucker", (3, 3, 2), linear.shape, 0.0)
    mixed = LayerPlan("4", "svd", (2,), linear.shape, 0.0)
    rest = (Skipped("2", "left"),)
    for second, said in ((other, "one core"), (mixed, "use that codec")):
        with pytest.raises(PlanError, match=said):
            decompose(dense, CompressionPlan(layers=(conv, second), skipped=rest))
    too_large = LayerPlan("0", "ada_tucker", (99, 3, 3), conv.shape, 0.0)
    with pytest.raises(PlanError, match="outside 1"):
        decompose(dense, CompressionPlan(layers=(too_large,), skipped=(*rest, Skipped("4", "left"))))
