"""Models that score tokens: losses in closed form, and searches over plans."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.moments import Moments, collect
from edgecompress.calibrating.trials import Trial, together_losses
from edgecompress.decompositions.kernels import kernels
from edgecompress.errors import MissingExtra
from edgecompress.planning import Scope, plan, survey
from edgecompress.planning.candidates import calibrated_candidates
from edgecompress.planning.fits import Fits
from edgecompress.planning.judging import searched
from edgecompress.plans import CompressionPlan
from edgecompress.progress import silent
from edgecompress.selectors import Budget
from edgecompress.selectors.base import Candidate, LayerCandidates
from edgecompress.selectors.search import Search, kinds_of, scaled

VOCABULARY, WIDTH = 13, 24


class Blocks(nn.Module):
    """Tokens to scores of the next, each from its own position, by two blocks of two Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(WIDTH, 2 * WIDTH), "down": nn.Linear(2 * WIDTH, WIDTH)}) for _ in range(2)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block["down"](block["up"](x + x.roll(1, 1)).relu())  # type: ignore[index]
        scores: Tensor = self.head(x)
        return scores


def language() -> tuple[Blocks, Calibration]:
    torch.manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (64, 8), generator=torch.Generator().manual_seed(1))
    return Blocks().eval(), Calibration((tokens,), tokens=True)


def candidates(model: nn.Module, calibration: Calibration) -> list[LayerCandidates]:
    seen = survey(model, calibration.inputs, Scope(include=("blocks.*",)))
    return calibrated_candidates(model, seen.items, calibration, ("svd",), 1, silent)


def test_losses_of_tokens_are_half_the_two_sided_error() -> None:
    model, calibration = language()
    layer = candidates(model, calibration)[0]
    moments = collect(model, calibration.fitting, [layer.name])[layer.name]
    metric = calibration.output_metrics(model, tuple(f"blocks.{i}.{k}" for i in (0, 1) for k in ("up", "down")), 256)
    own = metric[layer.name]
    assert isinstance(moments, Moments)
    assert own.level is not None
    weight = kernels(model.get_submodule(layer.name))
    fits = Fits(weight, moments.centred, own)
    sliced = fits.sliced(WIDTH)
    for one in layer.candidates:
        change = sliced.change(one)[0].double()
        torch.testing.assert_close(change.float(), fits.change(one)[0], atol=1e-5, rtol=1e-4)
        wanted = float(own.level[0]) / 2 * float((own.matrix[0] @ change @ moments.centred[0] * change).sum())
        assert one.loss == pytest.approx(wanted, rel=1e-3, abs=1e-9)


def test_losses_of_tokens_are_near_what_is_measured() -> None:
    model, calibration = language()
    for layer in candidates(model, calibration):
        mild = min(layer.candidates, key=lambda one: abs(one.error - 0.02))
        assert layer.changed is not None
        known = layer.changed(mild)
        assert known is not None
        change, mean = known
        trial = Trial(layer.name, change, -(change.double() @ mean[:, :, None])[:, :, 0])
        measured = float(together_losses(model, calibration.inputs, [trial]).mean())
        assert mild.loss is not None
        assert 0.25 < mild.loss / measured < 4


def searching(model: nn.Module, calibration: Calibration, selector: Budget) -> CompressionPlan:
    limits = {"include": ("blocks.*",), "multiple": 1}
    return plan(model, calibration.inputs, selector, calibration=calibration, **limits)  # type: ignore[arg-type]


def test_a_search_starts_with_the_knapsack_goes_on_and_is_never_worse(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgecompress[search]'")
    model, calibration = language()
    layers = candidates(model, calibration)
    seen = survey(model, calibration.inputs, Scope(include=("blocks.*",)))
    told: list[tuple[int, str]] = []

    def progress(stage: str, done: int, _total: int, detail: str) -> None:
        told.append((done, detail)) if stage.startswith("search") else None

    storage = f"journal:{tmp_path / 'study.log'}"
    for count in (3, 5):
        selector = Search(0.7, "params", evaluations=count, storage=storage)
        chosen = searched(
            model, layers, seen.total, selector, selector.select(layers, seen.total), calibration, progress
        )
    assert [done for done, _ in told] == [1, 2, 3, 4, 5]
    values = [float(detail.split()[-1]) for _, detail in told]
    assert values == sorted(values, reverse=True)
    kept = sum(choice.cost.params for choice in chosen.values() if isinstance(choice, Candidate))
    dense = sum(layer.dense.params for layer in layers if not isinstance(chosen[layer.name], Candidate))
    assert kept + dense + seen.total.params - sum(layer.dense.params for layer in layers) <= 0.7 * seen.total.params


def test_one_trial_is_the_knapsack() -> None:
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgecompress[search]'")
    model, calibration = language()
    first = searching(model, calibration, Search(0.7, "params", evaluations=1, sampler="gp"))
    assert first.layers == searching(model, calibration, Budget(0.7, "params")).layers


def test_without_inputs_a_search_is_the_knapsack_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calibration = language()
    said: list[str] = []
    monkeypatch.setattr("edgecompress.selectors.search.notice", said.append)
    found = plan(model, calibration.inputs, Search(0.7))
    assert found.layers == plan(model, calibration.inputs, Budget(0.7)).layers
    assert "--select search tries plans on calibration inputs" in said[0]


def test_a_search_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calibration = language()
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgecompress\[search\]'"):
        searching(model, calibration, Search(0.7, "params"))


def test_kinds_are_names_without_numbers_and_factors_scale_losses() -> None:
    model, calibration = language()
    layers = candidates(model, calibration)
    assert kinds_of(layers) == {layer.name: f"blocks.*.{layer.name.split('.')[-1]}" for layer in layers}
    twice = scaled(layers[0], 2.0)
    pairs = zip(layers[0].candidates, twice.candidates, strict=True)
    assert all(theirs.loss == 2 * (ours.loss or 0.0) for ours, theirs in pairs)
