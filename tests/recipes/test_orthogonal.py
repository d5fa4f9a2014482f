"""Over-parameterized nets compute what the dense net does, the penalty is what it says, and ranks follow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgecompress.calibrating import Calibration
from edgecompress.decomposing import check_plan, decompose
from edgecompress.decomposing.refitting import refit
from edgecompress.errors import BudgetError, PlanError
from edgecompress.finetuning import FineTuning, state_digest
from edgecompress.finetuning.distillation import Distilled
from edgecompress.finetuning.loop import FineTuned, fit
from edgecompress.models import Sample
from edgecompress.planning import Scope, plan
from edgecompress.recipes.base import RecipeInputs
from edgecompress.recipes.orthogonal import Orthogonal
from edgecompress.recipes.orthogonal_training import (
    FLOOR,
    ORTHOGONAL,
    Penalized,
    _skewed,
    full_rank_plan,
    leading_energy,
    merged_whole,
    orthogonality,
)
from edgecompress.selectors import Budget, Vbmf
from edgecompress.selectors.vbmf import evbmf_rank
from edgecompress.sources import resolve
from tests.nets import Net

FORMS = tuple(ORTHOGONAL)
HELD = {
    "svd": ("reduce", "expand"),
    "tucker2": ("reduce", "expand"),
    "hierarchical_tucker2": ("reduce", "vertical", "expand"),
}
SETTINGS = FineTuning(epochs=2, lr=0.05, distill=0.0, batch_size=64)


@pytest.fixture(scope="module")
def sample(tiny_file: Path) -> Sample:
    return resolve(str(tiny_file))


def varied() -> nn.Module:
    """Strides, groups, rectangles, one dimension less, transposed, pointwise, Linear."""
    return Net(
        lambda net, x: net.last(net.up(net.point(net.grouped(net.first(x)))).mean((2, 3))),
        first=nn.Conv2d(3, 8, (3, 5), stride=2, padding=(1, 2), bias=False),
        grouped=nn.Conv2d(8, 12, 3, padding=1, groups=2),
        point=nn.Conv2d(12, 6, 1),
        up=nn.ConvTranspose2d(6, 8, 3, stride=2, output_padding=1),
        last=nn.Linear(8, 5),
    ).eval()


@pytest.mark.parametrize("form", FORMS)
def test_the_first_output_is_the_dense_nets_and_merging_leads_back(form: str) -> None:
    dense, inputs = varied().double(), (torch.randn(2, 3, 12, 12, dtype=torch.float64),)
    full = full_rank_plan(dense, inputs, form)
    over = decompose(dense, full)
    assert {layer.name for layer in full.layers} == {"first", "grouped", "point", "up", "last"}
    assert {layer.method for layer in full.layers} <= {form, "svd"}
    torch.testing.assert_close(over(*inputs), dense(*inputs), rtol=1e-9, atol=1e-9)
    back = merged_whole(over, dense, full.layers)
    for name, tensor in dense.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_factors_start_orthogonal_and_skewed_ones_are_not(form: str) -> None:
    dense, inputs = varied(), (torch.randn(2, 3, 12, 12),)
    full = full_rank_plan(dense, inputs, form)
    over = decompose(dense, full)
    assert float(orthogonality(over, full.layers).detach()) < 1e-5
    with torch.no_grad():
        for parameter in over.parameters():
            parameter.add_(0.3 * parameter.abs().mean() * torch.randn_like(parameter))
    assert float(orthogonality(over, full.layers).detach()) > 0.01


def test_the_penalty_of_two_vectors_is_their_squared_cosine() -> None:
    vectors = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])
    muted = 1 / (1 + FLOOR * 1.5 / 1) / (1 + FLOOR * 1.5 / 2)  # the mean squared length is 1.5
    assert float(_skewed(vectors)) == pytest.approx(0.5 * muted)
    assert float(_skewed(7 * vectors)) == pytest.approx(0.5 * muted)
    assert float(_skewed(vectors.expand(3, 2, 2))) == pytest.approx(0.5 * muted)
    assert float(_skewed(torch.eye(4)[None])) == 0


def test_the_penalty_does_not_depend_on_the_size() -> None:
    values = [float(_skewed(torch.randn(groups, r, 4 * r))) for groups, r in ((1, 16), (1, 64), (8, 16), (1, 256))]
    assert min(values) > 0.15
    assert max(values) < 0.25


def test_very_short_vectors_neither_count_nor_explode() -> None:
    vectors = torch.eye(6)[None].repeat(1, 2, 1)
    vectors[:, 6:] = 1e-5 * torch.randn(1, 6, 6)
    vectors.requires_grad_()
    skewed = _skewed(vectors)
    skewed.backward()
    assert float(skewed.detach()) < 1e-6
    assert vectors.grad is not None
    assert float(vectors.grad.abs().max()) < 1e-3


def test_the_penaltys_gradient_is_that_of_finite_differences() -> None:
    vectors = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_skewed, (vectors,))


@pytest.mark.parametrize("form", FORMS)
def test_the_gradient_of_a_models_penalty_reaches_its_factors_and_nothing_else(form: str) -> None:
    dense, inputs = varied(), (torch.randn(2, 3, 12, 12),)
    full = full_rank_plan(dense, inputs, form)
    over = decompose(dense, full)
    with torch.no_grad():
        for parameter in over.parameters():
            parameter.add_(0.3 * parameter.abs().mean() * torch.randn_like(parameter))
    orthogonality(over, full.layers).backward()
    wanted = {f"{layer.name}.{link}.weight" for layer in full.layers for link in HELD[layer.method]}
    assert {name for name, parameter in over.named_parameters() if parameter.grad is not None} == wanted
    for name in sorted(wanted):
        parameter = over.get_parameter(name)
        assert parameter.grad is not None
        way, slopes = torch.randn_like(parameter), []
        for step in (0.01, -0.01):
            with torch.no_grad():
                moved = step * parameter.norm() / way.norm()
                parameter.add_(moved * way)
                slopes.append(float(orthogonality(over, full.layers)) / (0.02 * float(moved.abs() / 0.01)))
                parameter.sub_(moved * way)
        expected = float((parameter.grad * way).sum())
        assert slopes[0] - slopes[1] == pytest.approx(expected, rel=0.05, abs=2e-3), name


def trained(sample: Sample, penalty: float) -> float:
    """The orthogonality after training at a high rate."""
    dense = sample.model()
    full = full_rank_plan(dense, sample.inputs, "tucker2")
    objective = Penalized(Distilled(sample, SETTINGS), full.layers, penalty)
    done = fit(decompose(dense, full), sample, SETTINGS, objective, select_epoch="last")
    return float(orthogonality(done.model, full.layers).detach())


def test_training_with_the_penalty_keeps_factors_orthogonal_and_without_it_does_not(sample: Sample) -> None:
    free, default, held = trained(sample, 0.0), trained(sample, Orthogonal().penalty), trained(sample, 10.0)
    assert free > 0.01
    assert held < free / 4
    assert held < default < free


def test_the_penalty_lowers_what_was_skewed(sample: Sample) -> None:
    dense = sample.model()
    full = full_rank_plan(dense, sample.inputs, "svd")
    over = decompose(dense, full)
    with torch.no_grad():
        for parameter in over.parameters():
            parameter.add_(parameter.abs().mean() * torch.randn_like(parameter))
    before = float(orthogonality(over, full.layers).detach())
    done = fit(over, sample, SETTINGS, Penalized(Distilled(sample, SETTINGS), full.layers, 1.0), select_epoch="last")
    assert float(orthogonality(done.model, full.layers).detach()) < before / 2


@pytest.mark.parametrize("left", [0.0, 1e-4], ids=["low rank", "decayed"])
def test_the_penalty_does_not_undo_a_net_whose_weights_are_of_low_rank(sample: Sample, left: float) -> None:
    dense = fit(sample.model(), sample, SETTINGS, Distilled(sample, SETTINGS)).model
    with torch.no_grad():
        for layer in (dense[0], dense[4], dense[7], dense[10]):
            u, s, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
            s[len(s) // 2 :] *= left
            layer.weight.copy_(((u * s) @ v).view_as(layer.weight))
    full = full_rank_plan(dense, sample.inputs, "svd")
    over = decompose(dense, full)
    assert float(orthogonality(over, full.layers).detach()) < 1e-4
    free, held = (
        fit(over, sample, SETTINGS, Penalized(Distilled(sample, SETTINGS), full.layers, penalty), select_epoch="last")
        for penalty in (0.0, 1.0)
    )
    assert held.history[0].loss < free.history[0].loss + 0.05


def test_the_leading_energy_is_that_of_the_larger_half_of_the_spectrum() -> None:
    net = Net(lambda net, x: net.layer(x), layer=nn.Linear(4, 4))
    net.layer.weight.data.copy_(torch.diag(torch.tensor([3.0, 1.0, 2.0, 1.0])))
    layers = full_rank_plan(net, (torch.randn(2, 4),), "svd").layers
    assert leading_energy(net, layers) == pytest.approx(13 / 15)
    assert leading_energy(net, ()) == 1


def test_a_planted_rank_is_found_after_merging() -> None:
    torch.manual_seed(1)
    planted = torch.randn(40, 5) @ torch.randn(5, 60) + 0.05 * torch.randn(40, 60)
    dense = Net(lambda net, x: net.layer(x), layer=nn.Linear(60, 40))
    dense.layer.weight.data.copy_(planted)
    full = full_rank_plan(dense, (torch.randn(2, 60),), "svd")
    back = merged_whole(decompose(dense, full), dense, full.layers)
    assert evbmf_rank(back.layer.weight.detach()) == 5
    made = plan(back, (torch.randn(2, 60),), Vbmf(), methods=("svd",), multiple=1)
    assert [layer.ranks for layer in made.layers] == [(5,)]


def asked(sample: Sample, **more: object) -> RecipeInputs:
    given: dict[str, object] = {"selector": Vbmf(), "scope": Scope(), "tuning": SETTINGS, **more}
    return RecipeInputs(sample.model(), sample, **given)


@pytest.mark.parametrize("form", FORMS)
def test_it_ends_in_a_plan_and_a_model(sample: Sample, form: str) -> None:
    start = Orthogonal(form=form).start(asked(sample, selector=Budget(0.5), scope=Scope(multiple=4, exclude=("10",))))
    dense = sample.model()
    check_plan(dense, start.plan)
    assert start.plan.layers
    assert start.plan.compressed.macs <= 0.5 * start.plan.dense.macs
    assert any(skip.name == "10" and "excluded" in skip.reason for skip in start.plan.skipped)
    again = decompose(dense, start.plan, fill=False)
    again.load_state_dict(start.model.state_dict())
    torch.testing.assert_close(again(*sample.inputs), start.model(*sample.inputs))
    facts = json.loads(json.dumps(start.facts))
    assert (facts["form"], facts["penalty"], facts["epochs"], len(facts["history"])) == (form, 1.0, 2, 2)
    assert facts["orthogonality"]["before"] < 1e-5 < facts["orthogonality"]["after"]
    assert facts["ranks"] == {layer.name: [layer.method, *layer.ranks] for layer in start.plan.layers}
    layers = full_rank_plan(dense, sample.inputs, form, Scope(exclude=("10",))).layers
    assert facts["leading_energy"]["before"] == pytest.approx(leading_energy(dense, layers))
    assert facts["leading_energy"]["before"] < facts["leading_energy"]["after"] < 1


def test_calibration_inputs_fit_the_factors_to_outputs(sample: Sample) -> None:
    calibration = Calibration(tuple(torch.stack([sample.data("train")[i][0] for i in range(128)])[None]))
    scope = Scope(methods=("svd",), multiple=3)
    start = Orthogonal().start(asked(sample, calibration=calibration, selector=Budget(0.5), scope=scope))
    assert {layer.method for layer in start.plan.layers} == {"svd"}
    assert all(layer.ranks[0] % 3 == 0 for layer in start.plan.layers)
    assert all(layer.loss is not None for layer in start.plan.layers)
    conditioned = trained_whole(sample, 1.0)
    assert state_digest(start.model) == state_digest(refit(conditioned, start.plan, calibration))
    assert state_digest(start.model) != state_digest(decompose(conditioned, start.plan))


def trained_whole(sample: Sample, penalty: float) -> nn.Module:
    """The conditioned dense net, step by step."""
    dense = sample.model()
    full = full_rank_plan(dense, sample.inputs, "tucker2")
    objective = Penalized(Distilled(sample, SETTINGS, dense), full.layers, penalty)
    return merged_whole(
        fit(decompose(dense, full), sample, SETTINGS, objective, select_epoch="last").model, dense, full.layers
    )


def test_the_last_epoch_counts_not_the_best(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of nets that have their full ranks do not say how well they can be cut."""

    def watched(*given: Any, **options: Any) -> FineTuned:
        assert options["select_epoch"] == "last"
        return fit(*given, **options)

    monkeypatch.setattr("edgecompress.recipes.orthogonal_training.fit", watched)
    assert Orthogonal().start(asked(sample)).facts["history"]


def test_without_a_penalty_it_is_plain_training_of_the_same_chains(sample: Sample) -> None:
    start = Orthogonal(penalty=0).start(asked(sample, selector=Budget(0.5)))
    full = full_rank_plan(sample.model(), sample.inputs, "tucker2")
    task = Distilled(sample, SETTINGS, sample.model())
    done = fit(decompose(sample.model(), full), sample, SETTINGS, task, select_epoch="last")
    assert [epoch["loss"] for epoch in start.facts["history"]] == [epoch.loss for epoch in done.history]
    assert start.facts["orthogonality"]["after"] == float(orthogonality(done.model, full.layers).detach())


def test_a_mistyped_pattern_is_refused_before_training(sample: Sample) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it trained")

    with pytest.raises(PlanError, match="no layer matches 'fc'"):
        Orthogonal().start(asked(sample, scope=Scope(exclude=("fc",)), progress=never))


def test_a_budget_out_of_reach_is_said_before_training(sample: Sample) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it trained")

    with pytest.raises(BudgetError):
        Orthogonal().start(replace(asked(sample, progress=never), selector=Budget(0.001)))


def test_an_unknown_form_is_refused(sample: Sample) -> None:
    with pytest.raises(PlanError, match="no orthogonal form 'cp3'; there are svd, tucker2"):
        Orthogonal(form="cp3").start(asked(sample))


class Stop(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.slow
def test_a_stopped_recipe_goes_on_to_the_same_start(sample: Sample, tmp_path: Path) -> None:
    whole = Orthogonal().start(asked(sample))

    def listen(name: str, *_: object) -> None:
        if "epoch 2 " in name:
            raise Stop

    checkpoint = tmp_path / "recipe.pt"
    with pytest.raises(Stop):
        Orthogonal().start(asked(sample, checkpoint=checkpoint, progress=listen))
    seen: list[str] = []
    resumed = Orthogonal().start(asked(sample, checkpoint=checkpoint, progress=lambda name, *_: seen.append(name)))
    assert not any("epoch 1 " in name for name in seen)
    assert resumed.plan == whole.plan
    assert state_digest(resumed.model) == state_digest(whole.model)
    other = Orthogonal(penalty=0.5).start(asked(sample, checkpoint=checkpoint))
    assert state_digest(other.model) == state_digest(Orthogonal(penalty=0.5).start(asked(sample)).model)


def test_scope_is_kept(sample: Sample) -> None:
    full = full_rank_plan(sample.model(), sample.inputs, "tucker2", replace(Scope(), include=("4",)))
    assert [layer.name for layer in full.layers] == ["4"]
