"""Over-parameterized nets compute what the dense net does, the penalty is what it says, and ranks follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import Net
from torch import nn

from edgecompress.decomposing import check_plan, decompose
from edgecompress.errors import PlanError
from edgecompress.finetuning import FineTuning, state_digest
from edgecompress.models import Sample
from edgecompress.planning import Scope, plan
from edgecompress.resolving import resolve
from edgecompress.selectors import Budget, Vbmf
from edgecompress.selectors.vbmf import evbmf_rank
from edgecompress.training.base import Asked
from edgecompress.training.distillation import Distilled
from edgecompress.training.loop import fit
from edgecompress.training.orthogonal import (
    ORTHOGONAL,
    Orthogonal,
    Penalized,
    _skewed,
    full_rank_plan,
    merged_whole,
    orthogonality,
)

FORMS = tuple(ORTHOGONAL)
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
    assert float(_skewed(vectors)) == pytest.approx(2 * 0.5)  # each of the two pairs
    assert float(_skewed(vectors * torch.tensor([5.0, 0.1])[:, None])) == pytest.approx(2 * 0.5)
    assert float(_skewed(torch.eye(4)[None])) == pytest.approx(0, abs=1e-6)


def test_the_penaltys_gradient_is_that_of_finite_differences() -> None:
    vectors = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(_skewed, (vectors,))


def trained(sample: Sample, penalty: float) -> float:
    """The orthogonality after training at a high rate."""
    dense = sample.model()
    full = full_rank_plan(dense, sample.inputs, "tucker2")
    objective = Penalized(Distilled(sample, SETTINGS), full.layers, penalty)
    done = fit(decompose(dense, full), sample, SETTINGS, objective, keep="last")
    return float(orthogonality(done.model, full.layers).detach())


def test_training_with_the_penalty_keeps_factors_orthogonal_and_without_it_does_not(sample: Sample) -> None:
    free, held = trained(sample, 0.0), trained(sample, 1.0)
    assert free > 1e-4
    assert held < free / 4


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


def asked(sample: Sample, **more: object) -> Asked:
    given: dict[str, object] = {"selector": Vbmf(), "scope": Scope(), "tuning": SETTINGS, **more}
    return Asked(sample.model(), sample, **given)


@pytest.mark.parametrize("form", FORMS)
def test_it_ends_in_a_plan_and_a_model(sample: Sample, form: str) -> None:
    start = Orthogonal(form=form).start(asked(sample, selector=Budget(0.5), scope=Scope(multiple=4, exclude=("10",))))
    dense = sample.model()
    check_plan(dense, start.plan)
    assert start.plan.layers
    assert start.plan.macs <= 0.5 * start.plan.dense_macs
    assert any(skip.name == "10" and "excluded" in skip.reason for skip in start.plan.skipped)
    again = decompose(dense, start.plan, fill=False)
    again.load_state_dict(start.model.state_dict())
    torch.testing.assert_close(again(*sample.inputs), start.model(*sample.inputs))
    assert start.facts["epochs"] == 2
    assert start.facts["form"] == form


def test_a_mistyped_pattern_is_refused_before_training(sample: Sample) -> None:
    def never(*_: object) -> None:
        raise AssertionError("it trained")

    with pytest.raises(PlanError, match="no layer matches 'fc'"):
        Orthogonal().start(asked(sample, scope=Scope(exclude=("fc",)), progress=never))


def test_an_unknown_form_is_refused(sample: Sample) -> None:
    with pytest.raises(PlanError, match="no orthogonal form 'cp3'; there are svd, tucker2"):
        Orthogonal(form="cp3").start(asked(sample))


class Stop(Exception):
    """Stands for Ctrl-C."""


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
