"""What a teacher said is kept by item, while there is room."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgecompress.finetuning import FineTuning, finetune
from edgecompress.finetuning.distillation import Distilled
from edgecompress.finetuning.teacher_cache import Recall
from edgecompress.sources import resolve


class Counting(nn.Module):
    """A linear map that counts the items it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(144, 4)
        self.shown = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.shown[0] += len(x)
        out: Tensor = self.map(x.flatten(1))
        return out

    def __deepcopy__(self, memo: dict[int, object]) -> Counting:
        copy = Counting()
        copy.load_state_dict(self.state_dict())
        copy.shown = self.shown
        return copy


def test_known_items_are_not_asked_again_in_any_order_or_batch() -> None:
    items, map_ = torch.randn(12, 1, 12, 12), Counting()
    recall, expected = Recall(), map_(items)
    map_.shown[0] = 0
    for places in (torch.arange(12), torch.randperm(12)[:5], torch.tensor([3, 3])):
        said = recall.of((items[places],), lambda inputs: map_(*inputs))
        torch.testing.assert_close(said, expected[places])
    assert map_.shown == [12]


def test_all_inputs_and_every_number_of_an_item_count() -> None:
    recall, zeros = Recall(), torch.zeros(2, 3)
    changed = zeros.clone()
    changed[1, 2] = 1e-30
    for second in (zeros, changed):
        assert torch.equal(recall.of((zeros, second), lambda inputs: inputs[1] + 1), second + 1)


def test_no_more_is_kept_than_there_is_room_for() -> None:
    recall, items = Recall(most_bytes=40), torch.randn(10, 2)
    for batch in items.split(5):
        recall.of((batch,), lambda inputs: inputs[0])
    assert len(recall.rows) == 5


@pytest.mark.parametrize(("changing", "asked"), [({}, 1), ({"mixup": 0.2}, 3), ({"cutout": 2}, 3)])
def test_a_teacher_is_asked_once_where_inputs_stay_as_they_are(
    tiny_file: Path, changing: dict[str, float], asked: int
) -> None:
    sample, teacher = resolve(str(tiny_file)), Counting()
    settings = FineTuning(epochs=3, lr=0.05, distill=1.0, batch_size=64, **changing)  # type: ignore[arg-type]
    finetune(sample.model(), sample, settings, teacher=teacher)
    assert teacher.shown == [asked * 512]


def test_recalling_changes_no_weight(tiny_file: Path) -> None:
    sample = resolve(str(tiny_file))
    settings = FineTuning(epochs=2, lr=0.05, distill=0.5, batch_size=64)
    moving = replace(sample, augment=lambda inputs, _generator: inputs)
    models = [finetune(sample.model(), of, settings, teacher=sample.model()).model for of in (sample, moving)]
    for ours, theirs in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_does_not_fit_is_not_looked_up_any_more(tiny_file: Path) -> None:
    objective = Distilled(resolve(str(tiny_file)), FineTuning(distill=1.0), Counting())
    objective.recall = Recall(most_bytes=100)
    for batch in torch.randn(20, 1, 12, 12).split(10):
        objective.loss(Counting(), (batch,), torch.zeros(10, dtype=torch.int64))
    assert objective.recall is None
