"""Data as a notebook has it: every form gives the same items, and what is none is refused with the way out."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import edgecompress as ec
from edgecompress.errors import DataError
from edgecompress.models.data_forms import as_items, example_of, given_data, inputs_of
from edgecompress.models.item_forms import Expected

IMAGES = torch.randn(12, 3, 4, 4, generator=torch.Generator().manual_seed(0))
CLASSES = torch.arange(12) % 3
ONE, TWO = Expected(("",), (4,)), Expected(("ids", "mask"), (2, 2))


class Dicts(Dataset[Any]):
    """Items as Hugging Face has them, with lists for tensors."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"mask": [1] * 5, "ids": [index] * 5, "labels": index % 3, "text": "not looked at"}


class Stream(IterableDataset[Any]):
    """Without a length."""

    def __iter__(self) -> Any:
        return iter(IMAGES)


LABELLED = {
    "pair": (IMAGES, CLASSES),
    "arrays": (IMAGES.numpy(), CLASSES.numpy()),
    "batches": [(IMAGES[:5], CLASSES[:5]), (IMAGES[5:], CLASSES[5:])],
    "items": [(image, int(target)) for image, target in zip(IMAGES, CLASSES, strict=True)],
    "dataset": TensorDataset(IMAGES, CLASSES),
    "loader": DataLoader(TensorDataset(IMAGES, CLASSES), batch_size=5),
    "collating loader": DataLoader(TensorDataset(IMAGES, CLASSES), batch_size=5, collate_fn=lambda rows: {
        "pixel_values": torch.stack([image for image, _ in rows]), "labels": torch.stack([target for _, target in rows])
    }),
    "dicts": [{"image": image, "label": target} for image, target in zip(IMAGES, CLASSES, strict=True)],
    "one dict": {"image": IMAGES, "label": CLASSES},
}  # fmt: skip
ALONE = {
    "tensor": IMAGES,
    "array": IMAGES.numpy(),
    "batches": [IMAGES[:5], IMAGES[5:]],
    "items": list(IMAGES),
    "dataset": TensorDataset(IMAGES),
    "loader": DataLoader(TensorDataset(IMAGES), batch_size=5),
    "iterable loader": DataLoader(Stream(), batch_size=5),
}


@pytest.mark.parametrize("form", LABELLED)
def test_labelled_items_are_the_same_in_any_form(form: str) -> None:
    items = as_items(LABELLED[form], ONE, "net")
    assert items.labelled
    assert len(items) == 12
    image, target = items[7]
    assert torch.equal(image[0] if isinstance(image, tuple) else image, IMAGES[7])
    assert int(target) == 1


@pytest.mark.parametrize("form", ALONE)
def test_inputs_alone_calibrate(form: str) -> None:
    found = given_data(ALONE[form], ONE, "net")
    assert found.splits is None
    assert found.unlabelled is not None
    (rows,) = found.unlabelled
    assert torch.equal(rows.sum((1, 2, 3)).sort().values, IMAGES.sum((1, 2, 3)).sort().values)


def test_dicts_are_taken_by_the_names_of_the_example() -> None:
    (ids, mask), target = as_items(Dicts(), TWO, "net")[4]
    assert (ids.tolist(), mask.tolist(), int(target)) == ([4] * 5, [1] * 5, 1)
    with pytest.raises(DataError, match=r"item 0 of the data has no 'pixels', which the example has; it has mask, ids"):
        as_items(Dicts(), Expected(("pixels",), (4,)), "net")


def test_one_dataset_is_parted_and_several_are_as_they_are() -> None:
    one = given_data(TensorDataset(IMAGES, CLASSES), ONE, "net")
    assert one.splits is not None
    assert one.seen
    assert [len(one.splits(name)) for name in ("train", "validation", "test")] == [10, 1, 1]
    both = given_data({"train": (IMAGES, CLASSES), "test": (IMAGES[:4], CLASSES[:4])}, ONE, "net")
    assert both.splits is not None
    assert [len(both.splits(name)) for name in ("train", "validation", "test")] == [10, 1, 4]
    parts = dict.fromkeys(("train", "val", "test"), (IMAGES, CLASSES))
    assert not given_data(parts, ONE, "net").seen


REFUSED = {
    "a generator gives its batches once": (image for image in IMAGES),
    "a Stream gives its batches once": Stream(),
    "data is a str; give a tensor, a list of batches": "images.csv",
    "data is a int; give a tensor": 3,
    "the data is an empty list": [],
    "the data has no items": TensorDataset(IMAGES[:0], CLASSES[:0]),
    "the data has no split 'train'": {"test": IMAGES},
    r"have shapes \(12, 3, 4, 4\) and \(12,\), .* give a tuple \(inputs, labels\)": [IMAGES, CLASSES],
    "batch 0 of the data has parts of": [(IMAGES, CLASSES[:3])],
    r"holds a str; a tensor was expected .*set_format": [("text", 1)],
    "has 3 inputs, the example has 1": [((IMAGES[0], IMAGES[0], IMAGES[0]), 1)],
    "is a dict with a, b, the example is no dict": {"a": IMAGES, "b": IMAGES},
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_data_is_refused_with_the_way_out(words: str) -> None:
    with pytest.raises(DataError, match=words):
        given_data(REFUSED[words], ONE, "net")


def test_examples_and_calibration_take_a_bare_tensor() -> None:
    assert example_of(IMAGES)[0] is IMAGES
    for wrong, words in (({"x": IMAGES}, "is a dict; give its tensors"), (7, "is a int; give a tensor")):
        with pytest.raises(DataError, match=words):
            example_of(wrong)
    with pytest.raises(DataError, match=r"next\(iter\(loader\)\)"):
        example_of(DataLoader(TensorDataset(IMAGES)))
    pairs = list(itertools.islice(DataLoader(TensorDataset(IMAGES, CLASSES), batch_size=4), 2))
    for given, count in ((IMAGES, 12), (pairs, 8), (TensorDataset(IMAGES, CLASSES), 12)):
        assert [len(rows) for rows in inputs_of(given)] == [count]
        assert len(ec.Calibration(given).inputs[0]) == count
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 32))
    plan = ec.plan(net, IMAGES, ec.Budget(0.5))
    assert ec.cost(ec.refit(net, plan, IMAGES), IMAGES).macs < ec.cost(net, IMAGES).macs
    assert np.isfinite(plan.layers[0].error)
