"""Kinds of outputs, scores that are sums, and padding."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgecompress.calibrating import Calibration, calibration_of
from edgecompress.calibrating.moments import Moments, collect
from edgecompress.decomposing.refitting import refit
from edgecompress.errors import ModelError
from edgecompress.models import Sample
from edgecompress.models.kinds import IGNORED, PERPLEXITY, token_loss, token_sums
from edgecompress.models.masks import counted
from edgecompress.planning import plan
from edgecompress.scoring import score, split_score
from edgecompress.selectors import Budget

VOCABULARY, LENGTH = 11, 6


class Language(nn.Module):
    """Tokens to scores of the next, each from its own position; what is padding is given wild numbers."""

    def __init__(self, wild: float) -> None:
        super().__init__()
        self.wild = wild
        self.embedding, self.wide = nn.Embedding(VOCABULARY, 16), nn.Linear(16, 24)
        self.head = nn.Linear(24, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        wild = torch.where(attention_mask.unsqueeze(-1) != 0, 1.0, self.wild)
        scores: Tensor = self.head(self.wide(self.embedding(input_ids) * wild).relu())
        return scores


def model(wild: float = 1000.0) -> Language:
    torch.manual_seed(0)
    return Language(wild).eval()


def texts(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens, mask = torch.randint(0, VOCABULARY, (count, LENGTH), generator=generator), torch.ones(count, LENGTH)
    mask[:, 4:] = 0
    return tokens, mask.long()


def language_sample(count: int = 40) -> Sample:
    tokens, mask = texts(count)
    targets = torch.where(mask != 0, tokens.roll(-1, 1), IGNORED)
    data = TensorDataset(tokens, mask, targets)
    example = {"input_ids": tokens[:2], "attention_mask": mask[:2]}
    return Sample("language", "language", model, example, lambda _: data, outputs="tokens")  # type: ignore[arg-type]


def test_tokens_have_loss_and_perplexity_without_any_being_written() -> None:
    sample = language_sample()
    tokens, mask, targets = sample.data("test").dataset[:]
    scores = model()(tokens, mask).detach()
    counts = targets != IGNORED
    wanted = nn.functional.cross_entropy(scores[counts], targets[counts])
    assert torch.isclose(token_loss(scores, targets), wanted)
    assert score(sample.model(), sample) == pytest.approx(-math.exp(float(wanted)), rel=1e-5)
    assert sample.metric["name"] == PERPLEXITY.name
    assert sample.kind == "tokens"


def test_a_summed_score_never_keeps_outputs_and_knows_its_blocks() -> None:
    sample, most = language_sample(), 0

    def predict(*inputs: Tensor) -> Tensor:
        nonlocal most
        most = max(most, len(inputs[0]))
        return model()(*inputs)

    found = split_score(predict, sample, batch_size=256)
    assert most <= 4
    assert found.value == pytest.approx(score(model(), sample), rel=1e-6)
    assert len(found.without) == 20
    sums = token_sums(model()(*texts(40)), sample.data("test").dataset[:][2])
    assert found.value == pytest.approx(PERPLEXITY.value(sums.sum(0)), rel=1e-6)


def test_outputs_of_another_shape_are_no_tokens() -> None:
    with pytest.raises(ModelError, match="positions, vocabulary"):
        token_loss(torch.zeros(2, 5), torch.zeros(2, dtype=torch.long))


def test_a_kind_that_there_is_not() -> None:
    with pytest.raises(ModelError, match="'classes', 'tokens', 'values'"):
        replace(language_sample(), outputs="words")  # type: ignore[arg-type]


def test_padding_is_no_data() -> None:
    net, inputs = model(), texts(24)
    assert torch.equal(counted(net, inputs), inputs[1] != 0)  # type: ignore[arg-type]
    found = collect(net, inputs, ["wide"])["wide"]
    assert isinstance(found, Moments)
    rows = net.embedding(inputs[0])[inputs[1] != 0].double()
    assert found.count == 24 * 4
    assert torch.allclose(found.mean[0], rows.mean(0), atol=1e-6)
    assert torch.allclose(found.second[0], rows.T @ rows / len(rows), atol=1e-5)


def test_no_padding_no_mask() -> None:
    tokens, mask = texts(4)
    assert counted(model(), (tokens, torch.ones_like(mask))) is None
    assert counted(nn.Linear(2, 2), (torch.zeros(2, 2),)) is None


def test_refit_leaves_padding_out() -> None:
    inputs = texts(32)
    calibration, limits = Calibration(inputs, tokens=True), {"multiple": 1, "include": ("wide",), "methods": ("svd",)}
    made = plan(model(), inputs, Budget(0.8, "params"), calibration=calibration, **limits)  # type: ignore[arg-type]
    few, wild = (refit(model(of), made, calibration).state_dict() for of in (1.0, 1000.0))
    assert [layer.name for layer in made.layers] == ["wide"]
    assert all(torch.allclose(few[name], wild[name], atol=1e-5) for name in few)


def test_a_calibration_knows_the_kind_of_its_sample() -> None:
    drawn = calibration_of(language_sample(), 8, 0)
    assert drawn.classes
    assert drawn.tokens
    assert not calibration_of(replace(language_sample(), outputs="values"), 8, 0).classes
