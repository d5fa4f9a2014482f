"""Bolaco: a PCA of outputs by pooled covariances, and few ratios found by trying whole plans."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.moments import RIDGE
from edgecompress.calibrating.trials import all_changed
from edgecompress.errors import BudgetError, PlanError
from edgecompress.planning import Scope, plan, survey
from edgecompress.planning.judging import KL_SHARE, _Judge, next_tokens, searched
from edgecompress.planning.measuring import Trials
from edgecompress.planning.pooling import GROUP, pooled_candidates
from edgecompress.progress import silent
from edgecompress.selectors.base import Candidate, LayerCandidates
from edgecompress.selectors.bolaco import SHARED, Bolaco, at_ratios, shared_kinds

VOCABULARY, WIDTH = 13, 24
INCLUDED = Scope(include=("blocks.*",), multiple=1)


class Attending(nn.Module):
    """Tokens to scores of the next by two blocks with the layers' names of a LLaMA."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        names = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj")
        self.blocks = nn.ModuleList(nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names}) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            weights = (block["q_proj"](x) @ block["k_proj"](x).mT).tril().softmax(-1)  # type: ignore[index]
            x = x + block["o_proj"](weights @ block["v_proj"](x))  # type: ignore[index]
            x = x + block["up_proj"](x).tanh()  # type: ignore[index]
        scores: Tensor = self.head(x)
        return scores


def language() -> tuple[Attending, Calibration]:
    torch.manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (96, 8), generator=torch.Generator().manual_seed(1))
    return Attending().eval(), Calibration((tokens,), tokens=True)


def candidates(model: nn.Module, calibration: Calibration) -> list[LayerCandidates]:
    seen = survey(model, calibration.inputs, INCLUDED)
    return pooled_candidates(model, seen.items, calibration, 1, silent)


def test_weights_are_projected_on_the_pooled_principal_directions_of_the_outputs() -> None:
    model, calibration = language()
    layer = next(one for one in candidates(model, calibration) if one.name == "blocks.1.up_proj")
    given = list[Tensor]()
    own = model.get_submodule(layer.name)
    assert isinstance(own, nn.Linear)
    own.register_forward_pre_hook(lambda _own, arguments: given.append(arguments[0].detach()))
    model(*calibration.fitting)
    outputs = nn.functional.linear(given[0], own.weight).double()  # (72, 8, T)
    groups = [group.flatten(0, 1) for group in outputs.split(GROUP)]
    assert len(groups) == 3
    covariance = torch.stack([torch.cov(group.T, correction=0) for group in groups]).mean(0)
    damping = RIDGE * torch.stack(
        [torch.cov(x.flatten(0, 1).T, correction=0).diagonal().mean() for x in given[0].split(GROUP)]
    )
    covariance += damping.mean() * (own.weight @ own.weight.T).double()
    vectors = torch.linalg.eigh(covariance).eigenvectors.flip(1)
    chosen = next(one for one in layer.candidates if one.ranks == (7,))
    assert layer.changed is not None
    known = layer.changed(chosen)
    assert known is not None
    top = vectors[:, :7]
    wanted = top @ top.T @ own.weight.double()
    torch.testing.assert_close(known[0][0].double() + own.weight, wanted, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(known[1][0], given[0].flatten(0, 1).double().mean(0), atol=1e-6, rtol=1e-5)


def test_queries_and_keys_share_a_ratio_and_values_stay_dense() -> None:
    model, calibration = language()
    layers = candidates(model, calibration)
    kinds = shared_kinds(layers)
    assert set(kinds.values()) == {SHARED, "blocks.*.o_proj", "blocks.*.up_proj"}
    assert not any("v_proj" in name for name in kinds)
    chosen = at_ratios(layers, kinds, {SHARED: 0.5, "blocks.*.o_proj": 1.0, "blocks.*.up_proj": 0.2})
    halves = [chosen[f"blocks.{at}.{name}"] for at in (0, 1) for name in ("q_proj", "k_proj")]
    assert [one.ranks for one in halves if isinstance(one, Candidate)] == [(6,)] * 4
    assert chosen["blocks.0.v_proj"] == "values stay dense"
    assert isinstance(chosen["blocks.0.o_proj"], str)


def test_plans_are_within_a_tenth_of_the_size_and_the_best_by_perplexity_is_taken() -> None:
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgecompress[search]'")
    model, calibration = language()
    layers, seen = candidates(model, calibration), survey(model, calibration.inputs, INCLUDED)
    told = list[str]()

    def progress(stage: str, _done: int, _total: int, detail: str) -> None:
        told.append(detail) if stage.startswith("search") else None

    selector = Bolaco(0.7, "params", evaluations=7)
    chosen = searched(model, layers, seen.total, selector, {}, calibration, progress)
    saved = sum(
        layer.dense.params - one.cost.params for layer in layers if isinstance(one := chosen[layer.name], Candidate)
    )
    assert 0.6 <= 1 - saved / seen.total.params <= 0.7
    assert len(told) == 7
    made = plan(model, calibration.inputs, selector, INCLUDED, calibration=calibration)
    assert {one.name: one.ranks for one in made.layers} == {
        name: one.ranks for name, one in chosen.items() if isinstance(one, Candidate)
    }


def test_the_value_is_the_perplexity_and_a_thousandth_of_the_divergence() -> None:
    model, calibration = language()
    layers, seen = candidates(model, calibration), survey(model, calibration.inputs, INCLUDED)
    judges = {
        by: _Judge(
            model, layers, calibration, Trials(model, calibration, seen.total, silent), by_perplexity=by == "perplexity"
        )
        for by in ("perplexity", "divergence")
    }
    held = torch.cat([part[0] for part in judges["perplexity"].parts])
    one = next(one for one in layers if one.name.endswith("up_proj"))
    wanted = {one.name: one.candidates[0]}

    def perplexity() -> float:
        with torch.no_grad():
            lost = nn.functional.cross_entropy(model(held)[:, :-1].flatten(0, 1), held[:, 1:].flatten())
        return math.exp(float(lost))

    assert judges["perplexity"]({}) == pytest.approx(perplexity(), rel=1e-5)
    with all_changed(model, judges["perplexity"].trials.of(layers, wanted)):
        changed = perplexity()
    extra = KL_SHARE * judges["divergence"](wanted) / 7
    assert extra > 0
    assert judges["perplexity"](wanted) == pytest.approx(changed + extra, rel=1e-6)


def test_what_cannot_be_searched_so_is_refused() -> None:
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgecompress[search]'")
    model, calibration = language()
    with pytest.raises(BudgetError, match="values dense"):
        plan(model, calibration.inputs, Bolaco(0.3, "params", evaluations=1), INCLUDED, calibration=calibration)
    values = Calibration(calibration.inputs, tokens=False)
    with pytest.raises(PlanError, match="outputs = 'tokens'"):
        plan(model, calibration.inputs, Bolaco(0.7, "params", evaluations=1), INCLUDED, calibration=values)
    with pytest.raises(PlanError, match="no such input"):
        next_tokens(model, (torch.randn(2, 3),))
