"""Iterating over a dataset in batches, in a given order.

A dataset is anything with ``__len__`` and ``__getitem__`` giving ``(input, target)``, where the input is a tensor or a
tuple of them. One that also has
``batch(indices: Tensor) -> (inputs, targets)`` gives whole batches at once, which is much faster for
small images held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

from edgecompress.errors import DataError
from edgecompress.models.calling import call
from edgecompress.models.forms import Form
from edgecompress.progress import notice

Inputs = tuple[Tensor, ...]
Batch = tuple[Inputs, Tensor]

FINGERPRINTED_ITEMS = 256
_NOTED: set[tuple[str, str]] = set()
"""Samples and splits of which it was said that an item holds NaN."""
BATCH, UNLABELLED = "batch", "unlabelled"
"""What a dataset calls the way to a whole batch, and to the inputs of one alone."""
EXPECTED = "an item is (input, target), the input a tensor or a tuple of tensors"
"""What a dataset gives."""


def size(dataset: Dataset[Any]) -> int:
    """Number of items."""
    return len(dataset)  # type: ignore[arg-type]


def as_inputs(inputs: Tensor | Sequence[Tensor]) -> Inputs:
    """One input tensor or several, as a tuple."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


@dataclass(frozen=True)
class Split(Dataset[Any]):
    """A dataset of the user's, with the names of the sample and of the function that gave it, for messages.

    ``form`` is that of its inputs; None: a tensor or a tuple of them.
    """

    sample: str
    what: str
    dataset: Any
    form: Form | None = None

    def row(self, inputs: Any) -> tuple[Any, ...]:
        """The tensors of a batch of inputs, in order.

        Raises:
            DataError: the inputs are not of the example's form.
        """
        if self.form is None:
            return tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        try:
            return self.form.row(inputs)
        except (LookupError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.sample}: the inputs of {self.what} are not of the form of example(): no {error}"
            ) from None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name in {"dataset", "sample", "what", "form"}:
            raise AttributeError(name)
        return getattr(self.dataset, name)

    @classmethod
    def of(cls, dataset: Dataset[Any]) -> Split:
        """``dataset`` itself, or under the name of its type."""
        return dataset if isinstance(dataset, cls) else cls(type(dataset).__name__, "the dataset", dataset)


@dataclass(frozen=True)
class Part(Dataset[Any]):
    """Some items of a dataset of the user's; it has ``batch`` and ``unlabelled`` where that has them."""

    dataset: Any
    indices: Tensor

    @classmethod
    def spread(cls, dataset: Any, count: int) -> Part:
        """So many items at even distances, or all where there are fewer."""
        return cls(dataset, torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).long())

    @property
    def origin(self) -> str:
        """How many of how many, and where those come from."""
        return f"{len(self):,} of the {len(self.dataset):,} items of {origin(self.dataset)}"

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.indices[index])]

    def __getattr__(self, name: str) -> Any:
        if name not in {BATCH, UNLABELLED}:
            raise AttributeError(name)
        given = _whole_batches(self.dataset) if name == BATCH else getattr(self.dataset, name)
        if given is None:
            raise AttributeError(name)
        return lambda indices: given(self.indices[indices])


def _whole_batches(dataset: Any) -> Callable[[Tensor], Any] | None:
    """From indices to a batch, of a dataset that gives such; None of one that gives items alone."""
    if hasattr(dataset, BATCH):
        given: Callable[[Tensor], Any] = getattr(dataset, BATCH)
        return given
    return partial(_of_tensors, dataset) if isinstance(dataset, TensorDataset) else None


def _of_tensors(dataset: TensorDataset, indices: Tensor) -> Any:
    *several, last = dataset[indices]
    return several, last


def take(dataset: Dataset[Any], indices: Tensor) -> Batch:
    """The items at ``indices`` as one batch: the inputs (one or several tensors, in float32) and the targets.

    Raises:
        DataError: items are not (input, target), or cannot be put into one batch; it names the split and the fact.
    """
    split = Split.of(dataset)
    if (batch := _whole_batches(split.dataset)) is not None:
        what = f"{split.what}.batch(indices)" if hasattr(split.dataset, BATCH) else split.what
        pair = call(split.sample, what, partial(batch, indices), DataError)
    else:
        pair = _collated(split, [_item(split, int(index)) for index in indices])
    inputs, targets = _checked(split, pair, len(indices))
    _note_nan(split, inputs, indices)
    return inputs, targets


def _item(split: Split, index: int) -> Any:
    """One item of a dataset of the user's."""
    item = call(split.sample, f"item {index} of {split.what}", lambda: split.dataset[index], DataError)
    if not isinstance(item, tuple | list) or len(item) != 2:
        fact = f"has {len(item)} parts" if isinstance(item, tuple | list) else f"is a {type(item).__name__}"
        raise DataError(f"{split.sample}: item {index} of {split.what} {fact}; {EXPECTED}")
    return item


def _collated(split: Split, items: Sequence[Any]) -> Any:
    """Items as one batch; inputs and targets apart, so that the message names those that do not fit together."""
    parts = {"inputs": [given for given, _ in items], "targets": [wanted for _, wanted in items]}
    words = "putting the {} of {} into one batch"
    return tuple(
        call(split.sample, words.format(name, split.what), partial(default_collate, part), DataError)
        for name, part in parts.items()
    )


def _checked(split: Split, pair: Any, count: int) -> Batch:
    """Inputs and targets as they are to be: tensors, a row for each item, floating inputs in float32."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{split.sample}: {split.what} gives a {type(pair).__name__} as a batch; {EXPECTED}")
    inputs, targets = pair
    given = split.row(inputs)
    for what, tensors in (("inputs", given), ("targets", (targets,))):
        wrong = [tensor for tensor in tensors if not isinstance(tensor, Tensor)]
        if wrong or not tensors:
            kind = type(wrong[0]).__name__ if wrong else "none"
            raise DataError(f"{split.sample}: the {what} of {split.what} are no tensors ({kind}); {EXPECTED}")
        if any(tensor.shape[:1] != (count,) for tensor in tensors):
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
            raise DataError(f"{split.sample}: the {what} of {split.what} have shape {shapes} for {count} items")
    return tuple(map(single, given)), targets


def single(tensor: Tensor) -> Tensor:
    """Floating numbers in float32, in which models run here; others as they are."""
    return tensor.float() if tensor.is_floating_point() else tensor


def batches(dataset: Dataset[Any], batch_size: int, order: Tensor | None = None) -> Iterator[Batch]:
    """Batches over the whole dataset, or over ``order`` (indices) if given; the last may be smaller."""
    order = torch.arange(size(dataset)) if order is None else order
    for indices in torch.split(order, batch_size):
        yield take(dataset, indices)


def first(inputs: Inputs, count: int) -> Inputs:
    """The first ``count`` of a batch, or all where there are fewer."""
    return tuple(tensor[:count] for tensor in inputs)


def in_parts(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """A batch in parts of ``size``; the last may be smaller."""
    yield from zip(*(torch.split(tensor, size) for tensor in inputs), strict=True)


def of_batch(inputs: Inputs, batch: int) -> Inputs:
    """So many rows of an example, the first again where there are fewer; in memory in the order of their axes."""
    rows = (tensor[torch.arange(batch) % len(tensor)] for tensor in inputs)
    return tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in rows)


def in_batches(inputs: Inputs, batch: int) -> Iterator[Inputs]:
    """All rows in batches of exactly that size, the last filled up with the first rows."""
    count = len(inputs[0])
    for start in range(0, count, batch):
        yield tuple(tensor[torch.arange(start, start + batch) % count] for tensor in inputs)


def origin(dataset: Dataset[Any]) -> str:
    """Where the data comes from, in words, for reports: the user's own, or the type of the user's dataset."""
    given = dataset.dataset if isinstance(dataset, Split) else dataset
    return str(getattr(given, "origin", type(given).__name__))


def calibration_inputs(dataset: Dataset[Any], count: int, seed: int) -> Inputs:
    """``count`` inputs drawn without replacement, without their targets.

    These are not worked out where the dataset has ``unlabelled(indices)``, which gives the inputs of a batch alone.

    Raises:
        DataError: the dataset gives something else than items.
    """
    drawn, split = _drawn(dataset, count, seed), Split.of(dataset)
    if not hasattr(split.dataset, UNLABELLED):
        return take(dataset, drawn)[0]
    what = f"{split.what}.{UNLABELLED}(indices)"
    given = call(split.sample, what, lambda: split.dataset.unlabelled(drawn), DataError)
    inputs = _checked(split, (given, drawn), len(drawn))[0]
    _note_nan(split, inputs, drawn)
    return inputs


def _note_nan(split: Split, inputs: Inputs, indices: Tensor) -> None:
    """Say once of a split that an item holds NaN, which a model may expect; infinity may be meant, as in masks."""
    if (split.sample, split.what) in _NOTED:
        return
    for tensor in filter(Tensor.is_floating_point, inputs):
        if len(rows := tensor.isnan().reshape(len(indices), -1).any(1).nonzero()):
            _NOTED.add((split.sample, split.what))
            notice(
                f"{split.sample}: item {int(indices[int(rows[0, 0])])} of {split.what} holds NaN; leave such items out "
                "unless the model expects that"
            )
            return


def fingerprint(dataset: Dataset[Any], *, inputs_too: bool) -> str:
    """A digest of the number of items and of 256 items drawn with a fixed seed: their targets, and ``inputs_too``.

    A training set may give other inputs each time (random crops); its targets stay.
    """
    inputs, targets = take(dataset, _drawn(dataset, FINGERPRINTED_ITEMS, 0))
    digest = hashlib.sha256(str(size(dataset)).encode())
    for tensor in (targets, *(inputs if inputs_too else ())):
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def inputs_digest(inputs: Inputs) -> str:
    """A digest of all numbers."""
    digest = hashlib.sha256()
    for tensor in inputs:
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def raw_bytes(tensor: Tensor) -> memoryview:
    """A tensor's numbers as they lie in memory, not copied, for digests."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data


def _drawn(dataset: Dataset[Any], count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size(dataset), generator=generator)[:count]
