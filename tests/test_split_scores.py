"""A difference of two scores is one only if the items on which they differ say so, and a gate refuses only that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgecompress.errors import ModelError, ParityError
from edgecompress.exporting import score_checks
from edgecompress.exporting.score_checks import check_score
from edgecompress.exporting.tolerances import TOLERANCES
from edgecompress.models import Sample, top1
from edgecompress.scoring import score, split_score
from edgecompress.split_scores import SplitScore, difference, of_flips, student, unpaired
from edgecompress.targets import TARGETS

CLASSES = 10


def flipped(labels: Tensor, wrong: Tensor) -> Tensor:
    """Class scores that are right but on the items of ``wrong``."""
    return nn.functional.one_hot(torch.where(wrong, (labels + 1) % CLASSES, labels), CLASSES).float()


def numbered(count: int, **more: Any) -> tuple[Sample, Tensor]:
    """A sample whose inputs are the numbers of its items, and the labels."""
    labels = torch.arange(count) * 7 % CLASSES
    data = TensorDataset(torch.arange(count)[:, None], labels)
    return Sample("numbered", "numbered", nn.Identity, (torch.zeros(2, 1),), lambda _: data, **more), labels


class Answers(nn.Module):
    """A model that answers item by item."""

    def __init__(self, answers: Tensor) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, numbers: Tensor) -> Tensor:
        return self.answers[numbers[:, 0].long()]


def gate(monkeypatch: pytest.MonkeyPatch, sample: Sample, ours: Tensor, theirs: Tensor, precision: str = "int8") -> Any:
    """The gate on a model that answers ``ours`` and a file that answers ``theirs``."""
    monkeypatch.setattr(score_checks, "predict_with_file", lambda *_, **__: Answers(theirs))
    target = TARGETS["onnx"]
    return check_score(target, Path("model.onnx"), (), Answers(ours), sample, TOLERANCES[precision])


def chosen(count: int, numbers: range) -> Tensor:
    return torch.isin(torch.arange(count), torch.tensor(list(numbers), dtype=torch.long))


# -- the interval ----------------------------------------------------------------------------------------------------


def test_the_interval_of_flips_is_that_of_bonett_and_price() -> None:
    """(7 + 1) / 23 and (1 + 1) / 23 of 21 children, by hand."""
    found = of_flips(7, 1, 21)
    assert found.value == pytest.approx(100 * -6 / 21)
    assert found.interval == pytest.approx((-50.84, -1.34), abs=0.01)
    assert found.flips == (7, 1)
    assert of_flips(1, 7, 21).interval == pytest.approx((1.34, 50.84), abs=0.01)


@pytest.mark.parametrize(("lost", "won"), [(0.002, 0.001), (0.05, 0.03), (0.2, 0.05)])
@pytest.mark.parametrize("items", [40, 400])
def test_the_interval_holds_the_true_difference_about_as_often_as_it_says(items: int, lost: float, won: float) -> None:
    counts = np.random.default_rng(0).multinomial(items, [lost, won, 1 - lost - won], 2000)
    held = 0
    for one in counts:
        low, high = of_flips(int(one[0]), int(one[1]), items).interval or (0, 0)
        held += low <= 100 * (won - lost) <= high
    assert held / len(counts) > 0.93


def test_few_items_without_a_flip_prove_little() -> None:
    found = of_flips(0, 0, 40)
    assert found.interval == pytest.approx((-6.6, 6.6), abs=0.01)
    assert not found.resolved


def test_two_images_in_a_thousand_are_no_difference_and_twenty_are() -> None:
    assert not of_flips(2, 0, 1000).resolved
    assert not of_flips(30, 28, 1000).resolved
    assert of_flips(20, 0, 1000).resolved
    assert of_flips(0, 20, 1000).resolved


def test_quantiles_of_students_t() -> None:
    """Of printed tables."""
    assert student(0.975, 19) == pytest.approx(2.093, abs=1e-3)
    assert student(0.99, 19) == pytest.approx(2.539, abs=1e-3)
    assert student(0.975, 4) == pytest.approx(2.776, rel=5e-3)


def test_scores_are_paired_item_by_item() -> None:
    sample, labels = numbered(50)
    ours = split_score(Answers(flipped(labels, chosen(50, range(5)))), sample)
    theirs = split_score(Answers(flipped(labels, chosen(50, range(3, 12)))), sample, batch_size=7)
    found = difference(ours, theirs)
    assert (ours.value, theirs.value) == (90.0, 82.0)
    assert found.flips == (7, 3)
    assert found.interval == of_flips(7, 3, 50).interval


def test_scores_of_other_items_are_not_paired() -> None:
    sample, labels = numbered(50)
    other = replace(sample, splits=lambda _: TensorDataset(torch.arange(50)[:, None], labels.flip(0)))
    right = Answers(flipped(labels, chosen(50, range(0))))
    found = difference(split_score(right, sample), split_score(right, other))
    assert found.interval is None
    assert found.why_not == "the items are not the same"


def test_a_score_and_a_difference_survive_json() -> None:
    sample, labels = numbered(50)
    ours, theirs = (split_score(Answers(flipped(labels, chosen(50, range(n)))), sample) for n in (4, 8))
    again = [SplitScore.from_json(json.loads(json.dumps(one.to_json()))) for one in (ours, theirs)]
    assert again == [ours, theirs]
    found = difference(ours, theirs)
    assert type(found).from_json(json.loads(json.dumps(found.to_json()))) == found
    for damaged in (None, {}, {**ours.to_json(), "right": "?"}):
        assert SplitScore.from_json(damaged) is None


def test_accuracies_alone_still_tell_what_is_no_difference() -> None:
    assert not unpaired(91.0, 90.8, 1000).resolved
    assert "not paired" in unpaired(91.0, 90.8, 1000).why_not
    assert unpaired(91.0, 90.8, 1000).interval is not None
    assert unpaired(91.0, 80.0, 1000).interval is None


# -- a score of the user's own ---------------------------------------------------------------------------------------


def share(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).float().mean())


def closeness(outputs: Tensor, targets: Tensor) -> float:
    return -float(((outputs[:, 0] - targets) ** 2).mean().sqrt())


def test_a_score_over_items_has_the_interval_of_its_mean() -> None:
    """Its jackknife over single items is the standard error of the paired differences."""
    sample, labels = numbered(20, score=share)
    ours, theirs = (Answers(flipped(labels, chosen(20, range(n)))) for n in (1, 5))
    found = difference(split_score(ours, sample), split_score(theirs, sample))
    each = np.array([-1.0] * 4 + [0.0] * 16)
    half = student(0.975, 19) * each.std(ddof=1) / np.sqrt(20)
    assert found.interval == pytest.approx((each.mean() - half, each.mean() + half), rel=1e-4)


def test_any_score_has_an_interval_that_holds() -> None:
    """Root mean square errors, of which 95 of 100 intervals should hold the true difference."""
    generator, held = torch.Generator().manual_seed(0), 0
    for _ in range(60):
        targets, noise = torch.randn(200, generator=generator), torch.randn(200, generator=generator)
        worse = noise + 0.5 * torch.randn(200, generator=generator)
        data = TensorDataset(torch.arange(200)[:, None], targets)
        sample = Sample("s", "s", nn.Identity, (torch.zeros(2, 1),), lambda _, data=data: data, score=closeness)
        pair = (split_score(Answers((targets + off)[:, None]), sample) for off in (noise, worse))
        low, high = difference(*pair).interval or (0, 0)
        held += low <= 1 - 1.25**0.5 <= high
    assert held >= 52


def by_rows(outputs: Tensor, targets: Tensor) -> float:
    if len(targets) < 50:
        raise ValueError("all items are needed")
    return share(outputs, targets)


def test_it_is_said_why_a_score_has_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, labels = numbered(50, score=by_rows)
    right = Answers(flipped(labels, chosen(50, range(0))))
    assert "cannot be computed on part" in split_score(right, sample).why_not
    pairs = Answers(torch.zeros(50, 2, CLASSES))
    doubled = replace(sample, score=lambda outputs, _: float(outputs.flatten(0, 1).sum()))
    twice = lambda numbers: pairs(numbers).flatten(0, 1)  # noqa: E731 - two rows an item
    assert "one row for each item" in split_score(twice, doubled).why_not
    few, _ = numbered(4, score=share)
    assert "only 4 items" in split_score(Answers(flipped(labels, chosen(50, range(0)))), few).why_not
    monkeypatch.setattr("edgecompress.scoring.SLOWEST_S", -1.0)
    assert "takes more than" in split_score(right, replace(sample, score=share)).why_not


def test_pairing_changes_no_score() -> None:
    sample, labels = numbered(50, score=share)
    answers = Answers(flipped(labels, chosen(50, range(9))))
    assert split_score(answers, sample).value == score(answers, sample)


def test_classes_that_the_model_does_not_score_are_refused() -> None:
    """They would count as wrong, whatever the model answers: labels that start at 1, or another net's."""
    outputs = torch.eye(4)
    assert top1(outputs, torch.tensor([0, 1, 2, 1])) == 75
    assert top1(outputs, torch.tensor([0, 1, -100, 3])) == 75  # left out by cross-entropy
    with pytest.raises(ModelError, match=r"go up to class 4, .* gives 4 scores, of classes 0 to 3: number the classes"):
        top1(outputs, torch.tensor([1, 2, 3, 4]))


def test_outputs_that_are_no_class_scores_are_named_with_their_model() -> None:
    """Of each pixel, or one-hot: the message says what was given, and whose it is."""
    sample, _ = numbered(8)
    one_hot = replace(sample, splits=lambda _: TensorDataset(torch.zeros(8, 1), torch.eye(8)))
    with pytest.raises(ModelError, match=rf"^{sample.name}: top-1 .* these are \(8, \d+\) and \(8, 8\); define score"):
        score(lambda x: torch.zeros(len(x), 4), one_hot)


# -- the gate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [top1, share])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_the_same_file_gets_the_same_decision_on_every_small_split(
    monkeypatch: pytest.MonkeyPatch, own: Any, precision: str
) -> None:
    """Twenty splits of 40 items, of which a file gets one or two wrong that PyTorch gets right, or the other way."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sample, labels = numbered(40, score=own)
        ours, theirs = (torch.rand(40, generator=generator) < part for part in (0.1, 0.05))
        answers = flipped(labels, ours), flipped(labels, ours ^ theirs)
        assert gate(monkeypatch, sample, *answers, precision).items == 40


@pytest.mark.parametrize("own", [top1, share])
@pytest.mark.parametrize(("items", "lost"), [(40, 20), (100, 15), (200, 30), (1000, 50)])
def test_a_file_that_is_truly_worse_is_refused(
    monkeypatch: pytest.MonkeyPatch, own: Any, items: int, lost: int
) -> None:
    sample, labels = numbered(items, score=own)
    few, many = chosen(items, range(items // 20)), chosen(items, range(items // 20 + lost))
    with pytest.raises(
        ParityError, match=r"scores .* on the [\d,]+ items of the test split, PyTorch .*at least .* worse"
    ):
        gate(monkeypatch, sample, flipped(labels, few), flipped(labels, many))


def test_a_refusal_says_how_many_items_flipped(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, labels = numbered(1000)
    answers = flipped(labels, chosen(1000, range(2))), flipped(labels, chosen(1000, range(1, 101)))
    with pytest.raises(ParityError, match="99 of them became wrong and 1 right, with 99 % confidence at least"):
        gate(monkeypatch, sample, *answers)


@pytest.mark.parametrize("own", [top1, share, by_rows])
def test_no_file_is_refused_for_being_better(monkeypatch: pytest.MonkeyPatch, own: Any) -> None:
    sample, labels = numbered(400, score=own)
    answers = flipped(labels, chosen(400, range(120))), flipped(labels, chosen(400, range(0)))
    found = gate(monkeypatch, sample, *answers, "fp32")
    assert found.artifact > found.torch


def test_a_large_split_shows_what_a_small_one_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two points lost, allowed one: 2 of 100 are chance, 200 of 10,000 are not."""
    for items, refused in ((100, False), (10_000, True)):
        sample, labels = numbered(items)
        answers = flipped(labels, chosen(items, range(0))), flipped(labels, chosen(items, range(items // 50)))
        if refused:
            with pytest.raises(ParityError):
                gate(monkeypatch, sample, *answers)
        else:
            assert gate(monkeypatch, sample, *answers).difference.flips == (2, 0)


def test_within_the_tolerance_is_accepted_however_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, labels = numbered(10_000)
    answers = flipped(labels, chosen(10_000, range(0))), flipped(labels, chosen(10_000, range(80)))
    assert gate(monkeypatch, sample, *answers).difference.resolved


def test_without_an_interval_the_plain_difference_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, labels = numbered(50, score=by_rows)
    right, wrong = (flipped(labels, chosen(50, range(n))) for n in (0, 2))
    with pytest.raises(ParityError, match=r"0\.04 worse \(no interval: score\(outputs, targets\) cannot be computed"):
        gate(monkeypatch, sample, right, wrong)
    assert gate(monkeypatch, sample, right, right).difference.why_not
