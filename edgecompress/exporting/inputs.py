"""Which inputs a file is compared on, and numbers are watched on: of the data where that matters, else a probe."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgecompress.errors import DataError
from edgecompress.exporting.lengths import at_length, length_of
from edgecompress.exporting.outputs import run_model
from edgecompress.exporting.slices import FEWEST
from edgecompress.models import Sample
from edgecompress.models.datasets import Inputs, calibration_inputs, first

PARITY_ITEMS, WATCHED_ITEMS = 8, 16
"""Of the data: inputs of the parity batches, and those on which numbers are watched, at least."""
SLICE_ITEMS, SLICE_ITEMS_IN_FULL, SLICE_NUMBERS = 64, 12, 10_000_000
"""Inputs on which slices are compared, in fewer bits and in float32, and about how many numbers of output at most."""


def parity_inputs(sample: Sample, precision: str) -> Inputs:
    """The inputs of which the parity batches are made: the example; for int8 test items where there is data.

    The ranges of int8 are those of data, which noise around an example may leave.
    """
    if precision != "int8":
        return sample.inputs
    return _of_data(sample, "test", max(PARITY_ITEMS, len(sample.inputs[0])), seed=2) or sample.inputs


def golden_inputs(sample: Sample, precision: str, count: int) -> Inputs:
    """The inputs of the golden pair, which files are also measured on: real tokens, of the example's length.

    Without data, and of other inputs, as :func:`parity_inputs`.
    """
    length = length_of(sample.inputs)
    real = _of_data(sample, "test", count, seed=3) if length is not None else ()
    return at_length(real, length) if length is not None and real else parity_inputs(sample, precision)


def slice_inputs(model: nn.Module, sample: Sample, precision: str, batch: int = 1) -> Inputs:
    """Inputs that tell slices apart: of the test split where numbers were rounded and there is data, else a probe.

    So many that the outputs have at most ``SLICE_NUMBERS``.
    """
    each = sum(output.size for output in run_model(model, probe(sample.inputs, batch))) / batch
    count = min(SLICE_ITEMS, max(FEWEST, int(SLICE_NUMBERS / max(each, 1))))
    if precision == "fp32":
        return probe(sample.inputs, min(count, SLICE_ITEMS_IN_FULL))
    return _of_data(sample, "test", count, seed=1) or probe(sample.inputs, count)


def watched_inputs(sample: Sample, batch: int) -> Inputs:
    """Whole batches of the training data where there is some, else of a probe: for what half precision holds."""
    count = -(-WATCHED_ITEMS // batch) * batch
    return _of_data(sample, "train", count, seed=0) or probe(sample.inputs, count)


def _of_data(sample: Sample, split: str, count: int, seed: int) -> Inputs:
    """So many items of a split, or without labels; none where the sample has no data."""
    if sample.splits is None and sample.unlabelled is not None:
        return first(sample.unlabelled, count)
    try:
        return calibration_inputs(sample.data(split), count, seed)
    except DataError:
        return ()


def probe(inputs: Inputs, batch: int) -> Inputs:
    """``batch`` rows of the example; where it must be repeated, floating rows get seeded noise of its spread."""
    generator = torch.Generator().manual_seed(batch)

    def rows(tensor: Tensor) -> Tensor:
        taken = tensor[torch.arange(batch) % len(tensor)].clone()
        if tensor.is_floating_point() and batch > len(tensor):
            spread = tensor.std(unbiased=False).clamp_min(1e-3)
            taken[len(tensor) :] += spread * torch.randn(taken[len(tensor) :].shape, generator=generator)
        return taken

    return tuple(rows(tensor) for tensor in inputs)
