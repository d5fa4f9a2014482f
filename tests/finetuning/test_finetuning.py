"""Training keeps the best, resumes to the same weights, and says when it diverges."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgecompress import calibrating
from edgecompress.calibrating import Calibration, recalibrate, recalibrate_if_better
from edgecompress.errors import ModelError, TrainingError
from edgecompress.finetuning import FineTuned, FineTuning, distillation, finetune, state_digest
from edgecompress.finetuning.distillation import Ensemble
from edgecompress.models import Sample
from edgecompress.sources import resolve

SETTINGS = FineTuning(epochs=3, lr=0.05, distill=0.0, batch_size=64)


@pytest.fixture(scope="module")
def sample(tiny_file: Path) -> Sample:
    return resolve(str(tiny_file))


def same(one: nn.Module, other: nn.Module) -> bool:
    return state_digest(one) == state_digest(other)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_learns(sample: Sample, optimizer: str) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, lr={"sgd": 0.05, "adam": 1e-3}[optimizer])
    start = sample.model()
    done = finetune(start, sample, settings)
    assert done.best_score > 90
    assert len(done.history) == 3
    assert not done.model.training
    assert done.history[-1].loss < done.history[0].loss


def test_the_given_model_is_left_alone_and_the_seed_decides(sample: Sample) -> None:
    start = sample.model()
    before = state_digest(start)
    one, two = (finetune(start, sample, replace(SETTINGS, epochs=1)) for _ in range(2))
    other = finetune(start, sample, replace(SETTINGS, epochs=1, seed=1))
    assert state_digest(start) == before
    assert same(one.model, two.model)
    assert not same(one.model, other.model)


class Stop(Exception):
    """Stands for Ctrl-C."""


def interrupted(start: nn.Module, sample: Sample, settings: FineTuning, checkpoint: Path, epoch: int) -> None:
    """Train until the first step of ``epoch`` is done, then stop."""

    def listen(name: str, _done: int, _total: int, _detail: str) -> None:
        if f"epoch {epoch} " in name:
            raise Stop

    with pytest.raises(Stop):
        finetune(start, sample, settings, checkpoint=checkpoint, progress=listen)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_interrupted_run_resumes_to_the_same_weights(sample: Sample, tmp_path: Path, optimizer: str) -> None:
    settings = replace(SETTINGS, optimizer=optimizer, lr=0.01)
    start, checkpoint = sample.model(), tmp_path / "checkpoint.pt"
    whole = finetune(start, sample, settings)
    interrupted(start, sample, settings, checkpoint, epoch=2)
    seen: list[str] = []
    resumed = finetune(start, sample, settings, checkpoint=checkpoint, progress=lambda name, *_: seen.append(name))
    assert not any("epoch 1 " in name for name in seen)
    assert same(resumed.model, whole.model)
    assert resumed.history == whole.history


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_not_used(
    sample: Sample, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, checkpoint = sample.model(), tmp_path / "checkpoint.pt"
    interrupted(start, sample, SETTINGS, checkpoint, epoch=2)
    other = replace(SETTINGS, lr=0.02)
    assert same(finetune(start, sample, other, checkpoint=checkpoint).model, finetune(start, sample, other).model)
    checkpoint.write_bytes(b"not a checkpoint")
    assert finetune(start, sample, SETTINGS, checkpoint=checkpoint).best_score > 90
    assert "checkpoint.pt cannot be read" in capsys.readouterr().err


def test_the_best_epoch_is_kept_even_if_it_is_the_start(sample: Sample) -> None:
    good = finetune(sample.model(), sample, SETTINGS).model
    ruin = FineTuning(epochs=1, optimizer="adam", lr=10.0, distill=0.0)
    done = finetune(good, sample, ruin)
    assert done.best_epoch == 0
    assert same(done.model, good)
    assert done.history[0].score < done.best_score


def test_of_equal_scores_the_later_epoch_is_kept(sample: Sample) -> None:
    level = replace(sample, score=lambda _outputs, _targets: 50.0)
    done = finetune(sample.model(), level, SETTINGS)
    assert done.best_epoch == 3
    assert [epoch.score for epoch in done.history] == [50.0, 50.0, 50.0]


def test_no_epochs_is_a_copy(sample: Sample) -> None:
    start = sample.model()
    done = finetune(start, sample, FineTuning(epochs=0))
    assert done.history == ()
    assert done.model is not start
    assert same(done.model, start)
    assert isinstance(done, FineTuned)


def test_divergence_is_named(sample: Sample) -> None:
    broken = replace(sample, loss=lambda outputs, _targets: outputs.sum() * math.nan)
    with pytest.raises(TrainingError, match=r"the loss became nan in epoch 1, step 1; try a smaller --lr"):
        finetune(sample.model(), broken, SETTINGS)


def test_a_teacher_alone_can_teach(sample: Sample) -> None:
    teacher = finetune(sample.model(), sample, SETTINGS).model
    settings = replace(SETTINGS, distill=1.0)
    unlabelled = replace(sample, loss=lambda *_: pytest.fail("the loss must not be asked with distill 1"))
    assert finetune(sample.model(), unlabelled, settings, teacher=teacher).best_score > 85


def test_distillation_is_the_divergence_of_softened_outputs() -> None:
    student, teacher = torch.randn(2, 8, 5, dtype=torch.float64)
    soft = [(logits.float() / 2).softmax(1) for logits in (student, teacher)]
    expected = (soft[1] * (soft[1] / soft[0]).log()).sum(1).mean() * 4
    assert distillation(student, teacher, 2.0) == pytest.approx(float(expected), rel=1e-5)
    assert float(distillation(teacher, teacher, 4.0)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ModelError, match="--distill 0"):
        distillation(torch.randn(4), torch.randn(4), 2.0)


def test_frozen_parameters_stay(sample: Sample) -> None:
    start = sample.model()
    start[0].weight.requires_grad_(False)  # type: ignore[index, union-attr, operator]
    done = finetune(start, sample, replace(SETTINGS, epochs=1))
    assert torch.equal(done.model[0].weight, start[0].weight)  # type: ignore[index, arg-type]
    assert not torch.equal(done.model[4].weight, start[4].weight)  # type: ignore[index, arg-type]


def test_recalibration_gives_the_statistics_of_the_inputs() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5)).eval()
    inputs = torch.randn(64, 3, 8, 8) * 3 + 1
    changed = recalibrate(model, (inputs,), batch_size=64)
    with torch.no_grad():
        activations = model[0](inputs).transpose(0, 1).flatten(1)
    norm = changed[1]  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, activations.mean(1))
    torch.testing.assert_close(norm.running_var, activations.var(1), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1
    assert not any(module.training for module in changed.modules())
    assert torch.equal(model[1].running_mean, torch.zeros(5))  # type: ignore[arg-type]


def test_recalibration_is_kept_only_where_it_helps() -> None:
    dense = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).eval()
    calibration = Calibration((torch.randn(64, 3, 8, 8),), classes=False)
    (fitting,), (held,) = calibration.fitting, calibration.held(64)
    assert len(fitting) + len(held) == 64
    dense = recalibrate(dense, (fitting,))
    unchanged, helped = recalibrate_if_better(dense, dense, calibration)
    assert not helped
    assert unchanged is dense
    wrong = recalibrate(dense, (fitting * 5,))
    mended, helped = recalibrate_if_better(wrong, dense, calibration)
    assert helped
    torch.testing.assert_close(mended(held), dense(held), rtol=1e-3, atol=1e-3)


def test_recalibration_is_not_kept_for_bringing_the_outputs_nearer_on_its_own_inputs_alone() -> None:
    """The statistics that it starts with are right for the inputs held back, and wrong for those it would count."""
    own, others = torch.randn(48, 3, 8, 8) * 5, torch.randn(16, 3, 8, 8)
    convolution, norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)
    dense = recalibrate(nn.Sequential(convolution, norm), (torch.cat([own, others]),))
    start = recalibrate(dense, (others,))
    start[1].running_var = dense[1].running_var  # type: ignore[index, union-attr, assignment]
    kept, helped = recalibrate_if_better(start, dense, Calibration((torch.cat([own, others]),), classes=False))
    assert not helped
    assert kept is start


@pytest.mark.parametrize("outliers", [1, 16])
def test_recalibration_is_not_kept_for_a_single_input(monkeypatch: pytest.MonkeyPatch, outliers: int) -> None:
    """Of 16 inputs, others a little worse: one that is much nearer makes the mean smaller and shows nothing."""
    changed, kept = torch.full((16,), 0.02), torch.full((16,), 0.01)
    kept[:outliers] = 1.0
    assert changed.mean() < kept.mean()
    monkeypatch.setattr(calibrating, "apart_by_input", lambda *_, **__: torch.stack([changed, kept]))
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).eval()
    _, helped = recalibrate_if_better(model, model, Calibration((torch.randn(64, 3, 8, 8),), classes=False))
    assert helped == (outliers == 16)


def test_several_teachers_say_the_mean_of_their_logits(sample: Sample) -> None:
    """In order, whatever the input; each is asked once."""
    teachers = [sample.model(), finetune(sample.model(), sample, SETTINGS).model]
    images = sample.inputs[0]
    said = Ensemble(teachers)(images)
    expected = (teachers[0](images) + teachers[1](images)) / 2
    torch.testing.assert_close(said, expected)
    assert not torch.allclose(said, teachers[0](images))
