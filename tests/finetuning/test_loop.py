"""The options of training: each does what it says, and a stopped run goes on to the same weights under all of them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from edgecompress.decomposing import check_plan, decompose
from edgecompress.errors import ModelError, TrainingError
from edgecompress.finetuning import FineTuning, batching, finetune, running, state_digest
from edgecompress.finetuning.augmentation import cutout, mixed
from edgecompress.finetuning.distillation import Distilled, FeatureDistilled, live_kernels
from edgecompress.finetuning.loop import Objective, fit
from edgecompress.finetuning.schedules import cosine, restarts, schedule_of
from edgecompress.finetuning.workers import Alone
from edgecompress.models import Sample
from edgecompress.models.datasets import take
from edgecompress.planning import plan
from edgecompress.progress import silent
from edgecompress.recipes.staged import decomposed_in_stages, last_epochs, portions
from edgecompress.selectors import Budget
from edgecompress.sources import resolve

SETTINGS = FineTuning(epochs=2, lr=0.05, distill=0.0, batch_size=64)
EVERYTHING = replace(
    SETTINGS, schedule="cosine", ema=0.9, smoothing=0.1, mixup=0.2, cutout=3, accumulate=2, distill=0.5
)


@pytest.fixture(scope="module")
def sample(tiny_file: Path) -> Sample:
    return resolve(str(tiny_file))


class Stop(Exception):
    """Stands for Ctrl-C."""


@pytest.mark.parametrize(
    "settings", [EVERYTHING, replace(SETTINGS, schedule="constant")], ids=["everything", "constant"]
)
def test_a_stopped_run_goes_on_to_the_same_weights(sample: Sample, tmp_path: Path, settings: FineTuning) -> None:
    settings, checkpoint = replace(settings, epochs=3), tmp_path / "checkpoint.pt"
    dense = sample.model()
    whole = finetune(dense, sample, settings, teacher=dense)

    def listen(name: str, *_: object) -> None:
        if "epoch 3 " in name:
            raise Stop

    with pytest.raises(Stop):
        finetune(dense, sample, settings, teacher=dense, checkpoint=checkpoint, progress=listen)
    resumed = finetune(dense, sample, settings, teacher=dense, checkpoint=checkpoint)
    assert state_digest(resumed.model) == state_digest(whole.model)
    assert resumed.history == whole.history


@pytest.mark.parametrize(
    "change",
    [{"schedule": "cosine"}, {"warm_up": 0.6}, {"ema": 0.9}, {"smoothing": 0.2}, {"mixup": 0.4}, {"cutout": 4}],
    ids=str,
)
def test_every_option_changes_the_outcome_and_still_learns(sample: Sample, change: dict[str, object]) -> None:
    start = sample.model()
    plain, other = finetune(start, sample, SETTINGS), finetune(start, sample, replace(SETTINGS, **change))
    assert state_digest(plain.model) != state_digest(other.model)
    assert other.best_score > 60


def test_parts_of_a_batch_give_the_gradient_of_the_whole(sample: Sample) -> None:
    start = sample.model()
    start = nn.Sequential(*(layer for layer in start if not isinstance(layer, nn.BatchNorm2d | nn.Dropout)))
    whole, parts = (finetune(start, sample, replace(SETTINGS, accumulate=count)) for count in (1, 3))
    for one, other in zip(whole.history, parts.history, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-3)


def test_averaged_weights_follow_the_decay(sample: Sample) -> None:
    """After one step from w0 to w1 the average is d w0 + (1 - d) w1."""
    short = replace(SETTINGS, epochs=1, batch_size=512, schedule="constant")
    start, name = sample.model(), "4.weight"

    def trained(settings: FineTuning, decay: float) -> nn.Module:
        return fit(start, sample, replace(settings, ema=decay), Distilled(sample, settings), select_epoch="last").model

    plain, average = (trained(short, decay) for decay in (0, 0.75))
    first, moved, mean = (m.state_dict()[name] for m in (start, plain, average))
    # the first update of an AveragedModel copies the weights as they are
    assert not torch.equal(first, moved)
    torch.testing.assert_close(mean, moved)
    longer = replace(short, batch_size=256)
    two, averaged = (trained(longer, decay).state_dict()[name] for decay in (0, 0.75))
    assert 0 < float((averaged - two).norm()) < float((two - first).norm())


def test_schedules() -> None:
    def rates(settings: FineTuning, steps: int) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], settings.lr, settings.momentum)
        schedule = schedule_of(optimizer, settings, steps)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if schedule is not None:
                schedule.step()
        return found

    for name, warm_up in (("cosine", 0.2), ("restarts", 0.2), ("onecycle", 0.5)):
        found = rates(replace(SETTINGS, schedule=name, warm_up=warm_up), 100)
        assert max(found) == pytest.approx(0.05, rel=0.01)
        assert found.index(max(found)) == pytest.approx(100 * warm_up, abs=2)
        assert found[-1] < 0.001
    assert set(rates(replace(SETTINGS, schedule="constant"), 100)) == {0.05}
    assert cosine(10, 110, 60) == pytest.approx(0.5)
    assert [restarts(0, 70, step) for step in (0, 5, 10, 20, 30, 50, 70)] == pytest.approx([1, 0.5, 1, 0.5, 1, 0.5, 0])


def test_the_objective_decides_and_sees_the_end_of_every_epoch(sample: Sample) -> None:
    class Shrinking(Objective):
        ended = 0

        def loss(self, model: nn.Module, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
            return sum(parameter.square().sum() for parameter in model.parameters())

        def epoch_ended(self, model: nn.Module) -> None:
            self.ended += 1
            with torch.no_grad():
                next(iter(model.parameters())).zero_()

    objective, start = Shrinking(), sample.model()
    done = fit(start, sample, replace(SETTINGS, lr=0.01), objective, select_epoch="last")
    assert objective.ended == 2
    assert done.best_epoch == 2
    assert not next(iter(done.model.parameters())).any()
    assert done.model.state_dict()["4.weight"].norm() < start.state_dict()["4.weight"].norm()


def test_the_last_epoch_is_kept_where_it_is_asked_for(sample: Sample) -> None:
    start = finetune(sample.model(), sample, SETTINGS).model
    bad = replace(SETTINGS, lr=5.0, epochs=1, clip=1e9)
    assert finetune(start, sample, bad).best_epoch == 0
    last = finetune(start, sample, replace(bad, pick="last"))
    assert last.best_epoch == 1
    assert state_digest(last.model) != state_digest(start)


def test_a_loss_that_is_no_number_is_said(sample: Sample) -> None:
    class Broken(Objective):
        def loss(self, model: nn.Module, inputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> torch.Tensor:
            return model(*inputs).sum() * float("nan")

    with pytest.raises(TrainingError, match="nan in epoch 1, step 1"):
        fit(sample.model(), sample, SETTINGS, Broken())


def test_cutout_blanks_one_square() -> None:
    blanked = cutout(torch.ones(200, 2, 9, 7), 3, torch.Generator().manual_seed(0)) == 0
    assert (blanked[:, 0] == blanked[:, 1]).all()
    rows, columns = blanked[:, 0].any(2), blanked[:, 0].any(1)
    assert torch.equal(blanked[:, 0], rows[:, :, None] & columns[:, None])
    assert rows.sum(1).max() == 3
    assert rows.sum(1).min() == 2  # half of it over the border
    assert columns.any(0).all()


def test_mixup_blends_inputs() -> None:
    inputs = torch.arange(8.0)[:, None]
    (blend,), others, share = mixed((inputs,), 0.4)
    assert 0 <= share <= 1
    assert sorted(others.tolist()) == list(range(8))
    torch.testing.assert_close(blend, share * inputs + (1 - share) * inputs[others])


def test_mixup_weighs_the_targets_by_the_same_share(sample: Sample) -> None:
    objective = Distilled(sample, SETTINGS)
    outputs, targets, others = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([5, 4, 3, 2, 1, 0])
    cross = nn.functional.cross_entropy
    wanted = 0.3 * cross(outputs, targets) + 0.7 * cross(outputs, targets[others])
    torch.testing.assert_close(objective.of_outputs(outputs, (), targets, others, 0.3), wanted)


def test_smoothing_needs_class_targets(sample: Sample) -> None:
    own = replace(sample, loss=lambda outputs, targets: 2 * nn.functional.cross_entropy(outputs, targets))
    with pytest.raises(ModelError, match="cannot be smoothed"):
        Distilled(own, replace(SETTINGS, smoothing=0.1))


# -- feature distillation ------------------------------------------------------------------------------------


def test_features_are_at_no_distance_at_full_rank_and_their_distance_can_be_trained(sample: Sample) -> None:
    dense = sample.model()
    made = plan(dense, sample.inputs, Budget(0.4))
    inputs, targets = take(sample.data("train"), torch.arange(64))
    apart = FeatureDistilled(sample, replace(SETTINGS, feature=1.0), dense, made)
    plain = Distilled(sample, SETTINGS, dense)
    small = decompose(dense, made).eval()
    with torch.no_grad():
        further = float(apart.loss(small, inputs, targets) - plain.loss(small, inputs, targets))
    assert further > 0.1
    largest = tuple(replace(layer, ranks=_largest(dense, layer)) for layer in made.layers)
    exact = decompose(dense, replace(made, layers=largest)).eval()
    full = FeatureDistilled(sample, replace(SETTINGS, feature=1.0), dense, replace(made, layers=largest))
    torch.testing.assert_close(
        full.loss(exact, inputs, targets), plain.loss(exact, inputs, targets), rtol=1e-3, atol=1e-4
    )
    nearer = finetune(small, sample, replace(SETTINGS, feature=5.0), teacher=dense, plan=made)
    assert nearer.history[-1].loss < nearer.history[0].loss


def _largest(dense: nn.Module, layer: object) -> tuple[int, ...]:
    from edgecompress.decompositions import DECOMPOSITIONS

    return DECOMPOSITIONS[layer.method].max_ranks(dense.get_submodule(layer.name))


def test_live_kernels_carry_gradients() -> None:
    layer = nn.Conv2d(4, 6, 3, groups=2)
    live_kernels(layer, 2).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, 2 * layer.weight.detach())


# -- in stages -----------------------------------------------------------------------------------------------


def test_portions_hold_every_layer_once_least_loss_first(sample: Sample) -> None:
    layers = plan(sample.model(), sample.inputs, Budget(0.5)).layers
    for count in (1, 2, 3, 10):
        parts = portions(layers, count)
        flat = [layer for part in parts for layer in part]
        assert sorted(layer.name for layer in flat) == sorted(layer.name for layer in layers)
        assert [layer.error for layer in flat] == sorted(layer.error for layer in layers)
        assert len(parts) == min(count, len(layers))
    assert portions((), 3) == []


def test_stages_end_in_the_same_structure_and_spend_the_same_epochs(sample: Sample, tmp_path: Path) -> None:
    dense, settings = sample.model(), replace(SETTINGS, epochs=4, portions=2)
    made = plan(dense, sample.inputs, Budget(0.4))
    check_plan(dense, made)
    seen: set[str] = set()
    model = decomposed_in_stages(
        dense, made, sample, settings, folder=tmp_path, progress=lambda name, *_: seen.add(name)
    )
    assert {name for name in seen if "portion" in name} == {
        f"fine-tune, portion 1 of 2, epoch {epoch} of 2" for epoch in (1, 2)
    }
    assert last_epochs(settings, len(made.layers)).epochs == 2
    wanted = decompose(dense, made, fill=False).state_dict()
    assert {name: t.shape for name, t in model.state_dict().items()} == {name: t.shape for name, t in wanted.items()}
    assert not list(tmp_path.iterdir())


# -- speed ---------------------------------------------------------------------------------------------------


def test_the_loop_costs_little_beside_what_plain_pytorch_does(sample: Sample) -> None:
    """The same steps written down plainly, interleaved with the loop; CPU time, the best of several."""
    settings, start = replace(SETTINGS, epochs=1, schedule="constant"), sample.model()

    def plain() -> None:
        model = sample.model().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-4, nesterov=True)
        data = sample.data("train")
        for indices in torch.randperm(512).split(64):
            inputs, targets = data[indices]
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
        with torch.no_grad():
            model.eval()(sample.data("validation").tensors[0])

    def ours() -> None:
        finetune(start, sample, settings)

    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(7):
        for name, work in (("plain", plain), ("ours", ours)):
            begun = time.process_time()
            work()
            times[name].append(time.process_time() - begun)
    assert min(times["ours"]) < 1.6 * min(times["plain"]), times


@pytest.mark.parametrize(("batch_size", "count"), [(8, 3), (7, 2), (5, 5), (64, 4)])
def test_processes_take_equal_numbers_of_batches_and_every_item_once(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, batch_size: int, count: int
) -> None:
    seen: list[list[torch.Tensor]] = []
    for rank in range(count):
        monkeypatch.setattr(batching, "workers", lambda rank=rank: Alone(rank, count))
        task = batching.Task(
            replace(sample, augment=None),
            replace(SETTINGS, batch_size=batch_size),
            Distilled(sample, SETTINGS, None),
            sample.data("train"),
            sample.data("validation"),
            silent,
            "train",
            "last",
            batch_size,
        )
        given = batching.training_batches(task, 1, torch.Generator(), running.Within())
        seen.append([inputs[0].flatten(1) for inputs, _ in given])
        assert len(seen[-1]) == task.steps
    items = torch.cat([rows for batches in seen for rows in batches])
    assert len(items) == task.steps * batch_size
    assert len(items.unique(dim=0)) == len(items)
