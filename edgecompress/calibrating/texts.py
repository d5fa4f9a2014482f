"""Texts a few at a time without the padding that all of them have: of short ones it is half of the work.

They are taken in the order of their lengths and cut to the longest that runs with them, where the mask says what is
padding and the model gives the same: one that counts all positions, or wants so many of them, is given what there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from edgecompress.errors import ModelError
from edgecompress.models import as_outputs, calibrated, evaluating
from edgecompress.models.datasets import Inputs, in_parts
from edgecompress.models.masks import counted, is_by_position

PORTIONS, FEWEST = 4, 4
"""At least so many parts, of at least so many texts: fewer save little, smaller ones run slowly."""

RELATIVE = 1e-4
"""Of the largest output, within which those of texts that were cut are the same."""

_KNOWN: WeakKeyDictionary[nn.Module, dict[object, bool]] = WeakKeyDictionary()
"""Whether a model gives the same for texts that were cut, by the shapes of its inputs."""


def shortest_first(model: nn.Module, inputs: Inputs, size: int) -> Iterator[Inputs]:
    """``inputs`` in parts of at most ``size``: texts by their lengths, each part cut; others as they come."""
    mask = counted(model, inputs)
    if mask is None or not _gives_the_same(model, inputs, mask):
        yield from in_parts(inputs, size)
        return
    lengths = _lengths(mask)
    order = lengths.argsort(stable=True)
    portion = -(-len(order) // PORTIONS // FEWEST) * FEWEST
    for few in order.split(max(1, min(size, max(FEWEST, portion)))):
        yield _cut(tuple(tensor[few] for tensor in inputs), mask.shape[1], int(lengths[few].max()))


def _lengths(mask: Tensor) -> Tensor:
    """(N,): positions up to the last that counts; at least one."""
    positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    return (mask * positions).amax(1).clamp_min(1).cpu()


def _cut(inputs: Inputs, positions: int, length: int) -> Inputs:
    """Those of ``inputs`` that are (N, positions) of whole numbers, cut to ``length``."""
    return tuple(
        tensor[:, :length] if is_by_position(tensor) and tensor.shape[1] == positions else tensor for tensor in inputs
    )


def _gives_the_same(model: nn.Module, inputs: Inputs, mask: Tensor) -> bool:
    known = _KNOWN.setdefault(model, {})
    key = tuple((tensor.shape[1:], tensor.dtype) for tensor in inputs)
    if key not in known:
        known[key] = _same_on_the_shortest(model, inputs, mask)
    return known[key]


def _same_on_the_shortest(model: nn.Module, inputs: Inputs, mask: Tensor) -> bool:
    """Does the model give for the two shortest texts what it gives for them cut?"""
    lengths = _lengths(mask)
    few = lengths.argsort(stable=True)[:2]
    length = int(lengths[few].max())
    whole = tuple(tensor[few] for tensor in inputs)
    try:
        with evaluating(model), torch.no_grad():
            expected, found = (as_outputs(calibrated(model, of)) for of in (whole, _cut(whole, mask.shape[1], length)))
    except ModelError:
        return False
    return length < mask.shape[1] and len(expected) == len(found) and all(map(_same, expected, found))


def _same(expected: Tensor, found: Tensor) -> bool:
    if expected.shape != found.shape:
        return False
    if not expected.numel():
        return True
    off = (found.double() - expected.double()).abs().amax()
    return bool(off <= RELATIVE * expected.double().abs().amax())
