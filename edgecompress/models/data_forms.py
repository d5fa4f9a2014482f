"""Data in whatever form it is at hand: tensors, batches, a dataset, a DataLoader, dicts; as splits or as inputs.

An item is one example, a batch several of them with an axis in front.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from edgecompress.errors import DataError
from edgecompress.models.calling import call
from edgecompress.models.datasets import Inputs, size
from edgecompress.models.item_forms import Expected, is_array, parted

SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation", "valid": "validation",
               "val": "validation", "dev": "validation", "test": "test"}  # fmt: skip
HELD_PART, MOST_UNLABELLED = 10, 1024
"""One of so many items is held back for validation, and one for the test; inputs that are taken without labels."""
ACCEPTED = (
    "a tensor, a list of batches, a Dataset, a DataLoader, dicts of tensors by name, or a dict of such by split "
    "(train, validation, test)"
)


@dataclass(frozen=True, slots=True)
class GivenData:
    """What data came to.

    Args:
        splits: the dataset of each split, with items (input, target); None: there are no labels.
        unlabelled: inputs without labels, batch first; None where there are labels.
        seen: validation and test were held back from one dataset, which the model may have been trained on.
    """

    splits: Callable[[str], Dataset[Any]] | None = None
    unlabelled: Inputs | None = None
    seen: bool = False


def given_data(data: Any, expected: Expected, name: str) -> GivenData:
    """Splits or inputs of data in any form; ``name`` is the model's, for messages.

    Raises:
        DataError: it is none of the forms, has no items, or parts that the model has no use for.
    """
    if data is None:
        return GivenData()
    if callable(data) and not isinstance(data, Mapping | Dataset | DataLoader | Tensor):
        return GivenData(splits=data)
    if isinstance(data, Mapping) and data and all(str(key) in SPLIT_NAMES for key in data):
        return _by_split({SPLIT_NAMES[str(key)]: part for key, part in data.items()}, expected, name)
    items = as_items(data, expected, name)
    if not items.labelled:
        return GivenData(unlabelled=items.inputs(MOST_UNLABELLED))
    return GivenData(splits=_held_back(items).__getitem__, seen=True)


def _by_split(parts: Mapping[str, Any], expected: Expected, name: str) -> GivenData:
    """What was given for each split; a part of the train split stands for one that is missing."""
    found = {split: as_items(data, expected, f"{name}, {split}") for split, data in parts.items()}
    if "train" not in found:
        raise DataError(f"{name}: the data has no split 'train'; give {{'train': ..., 'test': ...}}")
    if not all(items.labelled for items in found.values()):
        return GivenData(unlabelled=found["train"].inputs(MOST_UNLABELLED))
    if {"validation", "test"} <= found.keys():
        return GivenData(splits=found.__getitem__)
    held = _held_back(found["train"])
    test = found.get("test") or found.get("validation") or held["test"]
    return GivenData(splits={**held, "test": test}.__getitem__, seen=True)


def _held_back(items: Items) -> dict[str, Dataset[Any]]:
    """Eight tenths of the items, and one each for validation and test, drawn with a fixed seed."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(0)).tolist()
    held = max(1, len(order) // HELD_PART)
    rows = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
    return {split: Subset(items, part or order) for split, part in rows.items()}


class Items(Dataset[Any]):
    """A dataset of ``(input, target)``, or of inputs alone, out of one in another form.

    Args:
        dataset: with length and indexing.
        expected: what the model takes.
        name: of the model, for messages.
    """

    def __init__(self, dataset: Any, expected: Expected, name: str) -> None:
        self.dataset, self.expected, self.name = dataset, expected, name
        if not size(dataset):
            raise DataError(f"{name}: the data has no items")
        self.labelled = len(self._parts(0)) == 2

    @property
    def origin(self) -> str:
        """In words, for reports."""
        return f"{type(self.dataset).__name__} of {len(self):,} items, given in Python"

    def __len__(self) -> int:
        return size(self.dataset)

    def __getitem__(self, index: int) -> Any:
        parts = self._parts(index)
        return parts if self.labelled else parts[0]

    def _parts(self, index: int) -> tuple[Any, ...]:
        item = call(self.name, f"item {index} of the data", lambda: self.dataset[index], DataError)
        return parted(item, self.expected, f"{self.name}: item {index} of the data")

    def inputs(self, most: int) -> Inputs:
        """At most so many inputs, drawn with a fixed seed, batch first."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:most]
        rows = [self._parts(int(index))[0] for index in order]
        made = call(self.name, "putting inputs of the data into one batch", lambda: default_collate(rows), DataError)
        return tuple(made) if isinstance(made, tuple | list) else (made,)


def as_items(data: Any, expected: Expected, name: str) -> Items:
    """A dataset of items in any form.

    Raises:
        DataError: it is none of the forms, or empty.
    """
    if isinstance(data, DataLoader):
        return _of_loader(data, expected, name)
    if isinstance(data, IterableDataset | Iterator):
        raise DataError(
            f"{name}: a {type(data).__name__} gives its batches once and has no length; give a list of some, as "
            "list(itertools.islice(data, 50))"
        )
    if is_array(data) or (isinstance(data, Mapping) and not hasattr(data, "__array__")):
        return _of_batches([data], expected, name)
    if isinstance(data, tuple) and data and all(map(is_array, data)):
        return _of_batches([data], expected, name)
    if isinstance(data, list):
        return _of_list(data, expected, name)
    if isinstance(data, str | bytes) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        raise DataError(f"{name}: data is a {type(data).__name__}; give {ACCEPTED}")
    if hasattr(data, "iloc"):
        raise DataError(
            f"{name}: data is a {type(data).__name__}; give tensors, as torch.tensor(frame[columns].values)"
        )
    return Items(data, expected, name)


def _of_loader(loader: DataLoader[Any], expected: Expected, name: str) -> Items:
    """Its dataset where items can be picked from that and are put together as usual; else its batches, read once."""
    usual = loader.collate_fn is default_collate and not isinstance(loader.dataset, IterableDataset)
    if usual:
        return Items(loader.dataset, expected, name)
    return _of_batches(call(name, "reading the DataLoader", lambda: list(loader), DataError), expected, name)


def _of_list(data: list[Any], expected: Expected, name: str) -> Items:
    """Batches or items: the first tensor of a batch has as many axes as the model's."""
    if not data:
        raise DataError(f"{name}: the data is an empty list")
    first = parted(data[0], expected, f"{name}: the first of the data")[0]
    tensor = first[0] if isinstance(first, tuple) else first
    whole = isinstance(tensor, Tensor) and tensor.dim() == expected.axes[0]
    return _of_batches(data, expected, name) if whole else Items(data, expected, name)


def _of_batches(batches: list[Any], expected: Expected, name: str) -> Items:
    """Batches put into one, so that items can be picked."""
    if not batches:
        raise DataError(f"{name}: the data has no batches")
    parts = [parted(batch, expected, f"{name}: batch {index} of the data") for index, batch in enumerate(batches)]
    labelled = len(parts[0]) == 2
    columns: list[tuple[Tensor, ...]] = []
    for index, part in enumerate(parts):
        row = (*(part[0] if isinstance(part[0], tuple) else (part[0],)), *part[1:])
        counts = {len(tensor) if isinstance(tensor, Tensor) and tensor.dim() else 0 for tensor in row}
        if len(counts) != 1:
            raise DataError(f"{name}: batch {index} of the data has parts of {sorted(counts)} rows")
        if columns and [tensor.shape[1:] for tensor in row] != [tensor.shape[1:] for tensor in columns[0]]:
            shapes = " and ".join(str(tuple(one[0].shape)) for one in (columns[0], row))
            raise DataError(
                f"{name}: batches 0 and {index} of the data have shapes {shapes}, which are no batches of one kind; "
                "for inputs with labels give a tuple (inputs, labels)"
            )
        columns.append(row)
    return Items(_Rows(tuple(map(_joined(name), zip(*columns, strict=True))), labelled=labelled), expected, name)


def _joined(name: str) -> Callable[[tuple[Tensor, ...]], Tensor]:
    return lambda parts: call(name, "putting the batches of the data together", lambda: torch.cat(parts), DataError)


class _Rows(TensorDataset):
    """Tensors row by row; where there are labels they are the last."""

    def __init__(self, tensors: tuple[Tensor, ...], *, labelled: bool) -> None:
        super().__init__(*tensors)
        self.labelled = labelled

    def __getitem__(self, index: Any) -> Any:
        row = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return (tuple(row[:-1]), row[-1]) if self.labelled else tuple(row)


def inputs_of(data: Any, name: str = "calibration") -> Inputs:
    """Inputs alone, batch first, of data in any form whose model takes one input; of a tuple of tensors itself.

    Raises:
        DataError: it is none of the forms.
    """
    if isinstance(data, Tensor):
        return (data,)
    if isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data):
        return data
    first = data[0] if isinstance(data, list) and data else None
    part = first[0] if isinstance(first, tuple | list) else first
    axes = part.dim() if isinstance(part, Tensor) else 0
    return as_items(data, Expected(("",), (axes,)), name).inputs(MOST_UNLABELLED)


def example_of(value: Any, name: str = "the model") -> Inputs:
    """One batch of inputs as a tuple of tensors; a bare tensor is one of one.

    Raises:
        DataError: it is anything else.
    """
    row = (value,) if isinstance(value, Tensor) else value
    if isinstance(row, tuple | list) and row and all(isinstance(part, Tensor) for part in row):
        return tuple(row)
    ways = {
        "DataLoader": "one batch of it, as next(iter(loader))[0]",
        "dict": "its tensors in a tuple, in the order of forward (ec.compress and ec.Sample take a dict)",
    }
    way = ways.get(type(value).__name__, "a tensor, or a tuple of tensors, batch first")
    raise DataError(f"{name}: the example is a {type(value).__name__}; give {way}")
