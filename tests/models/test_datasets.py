"""A part of a dataset gives the items that the whole gives, in whichever way that gives them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from edgecompress.models.datasets import Part, Split, calibration_inputs, origin, size, take

COUNT = 10
INPUTS, MORE, TARGETS = torch.arange(COUNT * 3.0).view(COUNT, 3), torch.arange(COUNT), torch.arange(COUNT) % 3


class Batched(Dataset[Any]):
    """Gives whole batches, and no items."""

    origin = "ours"

    def __len__(self) -> int:
        return COUNT

    def batch(self, indices: Tensor) -> Any:
        return (INPUTS[indices], MORE[indices]), TARGETS[indices]


ITEMS = [((given, more), target) for given, more, target in zip(INPUTS, MORE, TARGETS, strict=True)]


@pytest.mark.parametrize("dataset", [ITEMS, TensorDataset(INPUTS, MORE, TARGETS), Batched()])
@pytest.mark.parametrize("count", [1, 4, COUNT, COUNT + 5])
def test_a_part_gives_the_items_of_the_whole(dataset: Any, count: int) -> None:
    part = Part.spread(dataset, count)
    assert size(part) == min(count, COUNT)
    at = torch.arange(len(part)).flip(0)
    (inputs, more), targets = take(Split("net", "data", part), at)
    torch.testing.assert_close(inputs, INPUTS[part.indices[at]])
    torch.testing.assert_close(more, MORE[part.indices[at]])
    torch.testing.assert_close(targets, TARGETS[part.indices[at]])
    assert len(part.indices.unique()) == len(part)
    assert origin(part).startswith(f"{len(part)} of the {COUNT} items of ")


def test_a_part_has_no_ways_that_the_whole_has_not() -> None:
    for dataset, whole in ((ITEMS, False), (Batched(), True)):
        part = Part.spread(dataset, 3)
        assert hasattr(part, "batch") is whole
        assert not hasattr(part, "unlabelled")
        assert not hasattr(part, "perplexity")


def test_a_dataset_that_does_not_say_where_it_comes_from_is_of_the_users_type() -> None:
    for dataset, words in ((TensorDataset(INPUTS, TARGETS), "TensorDataset"), (Batched(), "ours"), (ITEMS, "list")):
        assert origin(dataset) == words
        assert origin(Split("net", "data('test')", dataset)) == words


class Unlabelled(Batched):
    """Has the inputs of a batch alone, too."""

    def unlabelled(self, indices: Tensor) -> Any:
        return self.batch(indices)[0]


@pytest.mark.parametrize("kind", [TensorDataset, Batched, Unlabelled])
def test_an_item_with_nan_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: Any
) -> None:
    given = INPUTS.clone()
    monkeypatch.setitem(globals(), "INPUTS", given)
    given[4, 1] = -torch.inf  # as in a mask: may be meant
    what = f"data of {kind.__name__}"
    split = Split("net", what, kind(given, MORE, TARGETS) if kind is TensorDataset else kind())
    calibration_inputs(split, COUNT, seed=0)
    assert not capsys.readouterr().err
    given[7, 0] = torch.nan
    calibration_inputs(split, COUNT, seed=0)
    take(split, torch.tensor([7]))
    words = f"note: net: item 7 of {what} holds NaN; leave such items out unless the model expects that"
    assert capsys.readouterr().err.splitlines() == [words]
