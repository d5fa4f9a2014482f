"""Ordered low rank: the sampler samples, the lasso empties tails, and on linear problems it finds SVD and PCA."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from nets import Net
from torch import nn

from edgecompress.costs import cost
from edgecompress.decomposing import check_plan, decompose
from edgecompress.errors import BudgetError, PlanError
from edgecompress.finetuning import FineTuning, state_digest
from edgecompress.models import Sample
from edgecompress.planning import Scope
from edgecompress.resolving import resolve
from edgecompress.selectors import Budget, Vbmf
from edgecompress.training.base import Asked
from edgecompress.training.distillation import Distilled
from edgecompress.training.ordered import Ordered, Sampled, draw, group_lasso, live_rank, with_ranks
from edgecompress.training.orthogonal import full_rank_plan
from edgecompress.training.ranked import Ranked, ranked_layers
from edgecompress.training.truncating import truncate

SETTINGS = FineTuning(epochs=2, lr=0.05, distill=0.0, batch_size=64)


@pytest.fixture(scope="module")
def sample(tiny_file: Path) -> Sample:
    return resolve(str(tiny_file))


def varied() -> nn.Module:
    """Stride, groups, transposed, Linear."""
    return Net(
        lambda net, x: net.last(net.up(net.grouped(net.first(x))).mean((2, 3))),
        first=nn.Conv2d(3, 8, 3, stride=2, padding=1, padding_mode="reflect", bias=False),
        grouped=nn.Conv2d(8, 12, 3, padding=1, groups=2),
        up=nn.ConvTranspose2d(12, 8, 3, stride=2, output_padding=1, groups=2),
        last=nn.Linear(8, 5),
    ).eval()


def ranked(dense: nn.Module, inputs: tuple[torch.Tensor, ...]) -> nn.Module:
    return with_ranks(dense, full_rank_plan(dense, inputs, "svd").layers)


def test_at_full_rank_it_computes_what_the_dense_net_does_and_slices_are_truncations() -> None:
    dense, inputs = varied().double(), (torch.randn(2, 3, 10, 10, dtype=torch.float64),)
    model = ranked(dense, inputs).eval()
    assert len(dict(ranked_layers(model))) == 4
    torch.testing.assert_close(model(*inputs), dense(*inputs), rtol=1e-9, atol=1e-9)
    for name, layer in ranked_layers(model):
        layer.width = 2
        plan = full_rank_plan(dense, inputs, "svd")
        cut = tuple(
            type(one)(one.name, "svd", (2,) if one.name == name else one.ranks, one.shape, 0.0) for one in plan.layers
        )
        wanted = decompose(dense, type(plan)("", cut, plan.skipped, 0, 0, 0, 0))
        torch.testing.assert_close(model(*inputs), wanted(*inputs), rtol=1e-8, atol=1e-9)
        layer.width = None


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_shrinking_zeroes_what_is_dead_and_nothing_else(layout: torch.memory_format) -> None:
    dense, inputs = varied(), (torch.randn(2, 3, 10, 10),)
    model = ranked(dense, inputs).to(memory_format=layout)
    for _, layer in ranked_layers(model):
        layer.width = 2
        cut = model(*inputs)
        layer.width = None
        layer.shrink(2)
        layer.shrink(5)  # the dead stay dead
        assert int(layer.rank) == 2
        torch.testing.assert_close(model(*inputs), cut)
        assert not layer.rows()[:, 2:].any()
        assert not layer.columns()[:, 2:].any()
        assert layer.rows()[:, :2].all(2).any()


def test_pairs_are_drawn_uniformly() -> None:
    ranks, draws = [3, 1, 6], 20_000
    counts = Counter(draw(ranks) for _ in range(draws))
    assert set(counts) == {(layer, width) for layer, rank in enumerate(ranks) for width in range(1, rank + 1)}
    expected = draws / sum(ranks)
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < 27.9  # 9 degrees of freedom, p = 0.001


def test_every_step_runs_one_layer_at_a_drawn_width_and_all_others_whole(sample: Sample) -> None:
    model = ranked(sample.model(), sample.inputs)
    seen: list[tuple[int | None, ...]] = []
    model.register_forward_pre_hook(lambda *_: seen.append(tuple(layer.width for _, layer in ranked_layers(model))))
    objective = Sampled(Distilled(sample, SETTINGS), Ordered())
    for _ in range(60):
        objective.loss(model, sample.inputs, torch.zeros(2, dtype=torch.long))
    assert all(sum(width is not None for width in widths) == 1 for widths in seen)
    assert len(set(seen)) > 20
    assert all(layer.width is None for _, layer in ranked_layers(model))


def test_the_full_pass_runs_the_whole_model_too(sample: Sample) -> None:
    model = ranked(sample.model(), sample.inputs)
    seen: list[int] = []
    model.register_forward_pre_hook(
        lambda *_: seen.append(sum(layer.width is not None for _, layer in ranked_layers(model)))
    )
    objective = Sampled(Distilled(sample, SETTINGS), Ordered(full_pass=True))
    objective.loss(model, sample.inputs, torch.zeros(2, dtype=torch.long)).backward()
    assert seen == [0, 1]


def one_layer(weight: torch.Tensor) -> Ranked:
    dense = Net(lambda net, x: net.layer(x), layer=nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    dense.layer.weight.data = weight.clone()
    return next(layer for _, layer in ranked_layers(ranked(dense, (torch.randn(2, weight.shape[1]),))))


def test_the_lasso_is_the_sum_over_tails_with_a_finite_gradient_at_zero() -> None:
    layer = one_layer(torch.randn(4, 3))
    expand, reduce = layer.expand.weight, layer.reduce.weight
    by_hand = sum(expand[:, b:].norm() + reduce[b:].norm() for b in range(3))
    torch.testing.assert_close(group_lasso([layer]), by_hand)
    layer.shrink(1)
    group_lasso([layer]).backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in layer.parameters())


def test_the_lassos_gradient_is_that_of_finite_differences() -> None:
    layer = one_layer(torch.randn(4, 3))
    group_lasso([layer]).backward()
    weight, step = layer.reduce.weight, 1e-2
    for place in ((0, 0), (1, 2), (2, 1)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * step
                values.append(float(group_lasso([layer])))
                weight[place] -= sign * step
        assert float(weight.grad[place]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2, abs=1e-3)


def test_the_lasso_empties_a_useless_tail_and_shrinking_drops_it() -> None:
    torch.manual_seed(3)
    planted = torch.randn(6, 2) @ torch.randn(2, 6)
    layer, inputs = one_layer(planted + 0.05 * torch.randn(6, 6)), torch.randn(64, 6)
    assert live_rank(layer, 0.01) > 3
    optimizer = torch.optim.SGD(layer.parameters(), 0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        loss = (layer(inputs) - inputs @ planted.T).square().mean() + 2e-3 * group_lasso([layer])
        loss.backward()
        optimizer.step()
    rank = live_rank(layer, 0.01)
    assert rank == 2
    layer.shrink(rank)
    assert float((layer(inputs) - inputs @ planted.T).square().mean().detach()) < 0.01 * float(
        (inputs @ planted.T).square().mean()
    )


def sampled_training(target: torch.Tensor, inputs: torch.Tensor, steps: int = 3000) -> Ranked:
    """One linear layer trained at sampled widths, from a random start, to give ``target`` rows for ``inputs``."""
    layer = one_layer(0.3 * torch.randn(target.shape[1], inputs.shape[1]))
    optimizer = torch.optim.Adam(layer.parameters(), 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        _, layer.width = draw([int(layer.rank)])
        optimizer.zero_grad()
        (layer(inputs) - target).square().sum(1).mean().backward()
        optimizer.step()
        schedule.step()
    layer.width = None
    return layer


def white(count: int, width: int) -> torch.Tensor:
    """Inputs whose second moments are exactly the identity."""
    return torch.linalg.qr(torch.randn(count, width))[0] * count**0.5


def test_on_a_linear_map_of_white_inputs_every_width_is_the_truncated_svd() -> None:
    left, right = torch.linalg.qr(torch.randn(5, 5))[0], torch.linalg.qr(torch.randn(5, 5))[0]
    values = torch.tensor([4.0, 2.5, 1.5, 0.8, 0.3])
    weight, inputs = left @ values.diag() @ right, white(40, 5)
    layer = sampled_training(inputs @ weight.T, inputs)
    for width in range(1, 6):
        rest = weight - layer.columns()[0, :width].T @ layer.rows()[0, :width]
        tail = float(values[width:].square().sum())
        assert float(rest.square().sum().detach()) == pytest.approx(tail, rel=0.05, abs=0.05)


def test_as_an_autoencoder_the_first_ranks_span_the_principal_components() -> None:
    axes = torch.linalg.qr(torch.randn(5, 5))[0]
    spread = torch.tensor([3.0, 2.0, 1.2, 0.6, 0.2])
    inputs = white(40, 5) * spread @ axes.T
    layer = sampled_training(inputs, inputs)
    for width in range(1, 4):
        basis = torch.linalg.qr(layer.columns()[0, :width].T.detach())[0]
        captured = (basis.T @ axes[:, :width]).square().sum() / width
        assert float(captured) > 0.98


def asked(sample: Sample, **more: object) -> Asked:
    given: dict[str, object] = {"selector": Budget(0.4), "scope": Scope(multiple=4), "tuning": SETTINGS, **more}
    return Asked(sample.model(), sample, **given)


def test_it_ends_in_a_plan_and_a_model_within_the_budget(sample: Sample) -> None:
    start = Ordered(lasso=1e-4).start(asked(sample))
    dense = sample.model()
    check_plan(dense, start.plan)
    counted = cost(start.model, sample.inputs)
    assert (counted.macs, counted.params) == (start.plan.macs, start.plan.params)
    assert counted.macs <= 0.4 * start.plan.dense_macs
    again = decompose(dense, start.plan, fill=False)
    again.load_state_dict(start.model.state_dict())
    torch.testing.assert_close(again(*sample.inputs), start.model(*sample.inputs))


def test_one_training_serves_every_budget(sample: Sample) -> None:
    """Cut without retraining: within each budget, with errors that grow as the budget falls."""
    dense = sample.model()
    full = full_rank_plan(dense, sample.inputs, "svd")
    model = with_ranks(dense, full.layers)
    costs, errors = [], []
    for keep in (0.9, 0.6, 0.4, 0.2):
        cut = truncate(model, dense, full, Budget(keep), Scope(multiple=2), sample)
        check_plan(dense, cut.plan)
        counted = cost(cut.model, sample.inputs)
        assert counted.macs == cut.plan.macs <= keep * cut.plan.dense_macs
        costs.append(counted.macs)
        errors.append(float((cut.model(*sample.inputs) - dense(*sample.inputs)).square().sum().detach()))
    assert costs == sorted(costs, reverse=True)
    assert errors[0] < errors[-1]
    whole = truncate(model, dense, full, Budget(1.0), Scope(), sample)
    assert not whole.plan.layers  # nothing had to be cut: folded back to dense
    torch.testing.assert_close(whole.model(*sample.inputs), dense(*sample.inputs), rtol=1e-4, atol=1e-5)
    with pytest.raises(BudgetError, match="cannot be reached by cutting ranks") as error:
        truncate(model, dense, full, Budget(0.01), Scope(), sample)
    assert 0.01 < error.value.nearest_keep < 0.5


def test_another_selector_is_refused(sample: Sample) -> None:
    with pytest.raises(PlanError, match="use --keep"):
        Ordered().start(asked(sample, selector=Vbmf()))


class Stop(Exception):
    """Stands for Ctrl-C."""


def test_a_stopped_recipe_goes_on_to_the_same_start(sample: Sample, tmp_path: Path) -> None:
    recipe = Ordered(lasso=1e-3, threshold=0.05)
    whole = recipe.start(asked(sample))

    def listen(name: str, *_: object) -> None:
        if "epoch 2 " in name:
            raise Stop

    checkpoint = tmp_path / "recipe.pt"
    with pytest.raises(Stop):
        recipe.start(asked(sample, checkpoint=checkpoint, progress=listen))
    seen: list[str] = []
    resumed = recipe.start(asked(sample, checkpoint=checkpoint, progress=lambda name, *_: seen.append(name)))
    assert not any("epoch 1 " in name for name in seen)
    assert resumed.plan == whole.plan
    assert resumed.facts == whole.facts
    assert state_digest(resumed.model) == state_digest(whole.model)
