"""Files with a KV cache: what they are fed with, and what they give token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from edgecompress.artifacts import Arrays, TensorSpec
from edgecompress.exporting.outputs import Array, as_feed
from edgecompress.models.datasets import Inputs
from edgecompress.models.stepping import IDS, KEPT, LOGITS, MASK, PAST, POSITIONS, PRESENT, Step, positions
from edgecompress.targets.base import Run

STEPS = 4
"""Tokens that are computed one by one, after all before them at once, where a file is proved."""
GOLDEN_LENGTH = 32
"""Tokens of the golden pair, the first half of which are earlier ones: their keys and values are most of the file."""


def takes_cache(specs: Sequence[TensorSpec]) -> bool:
    """Whether a file takes keys and values of earlier tokens."""
    return any(spec.name.startswith(f"{PAST}.") for spec in specs)


def first_feed(specs: Sequence[TensorSpec], inputs: Inputs) -> Arrays:
    """Whole rows: tokens (N, positions), alone or with their mask, after no earlier ones."""
    tokens = inputs[0].numpy()
    mask = inputs[1].numpy() if len(inputs) > 1 else np.ones_like(tokens)
    empty = {spec.name: _empty(spec, len(tokens)) for spec in specs if spec.name.startswith(f"{PAST}.")}
    return next_feed(specs, tokens, mask, empty)


def next_feed(specs: Sequence[TensorSpec], tokens: Array, mask: Array, past: Arrays) -> Arrays:
    """Tokens (N, n) after those whose keys and values are ``past``; the mask (N, p + n) is of all."""
    new = tokens.shape[1]
    found = {IDS: tokens, MASK: mask, POSITIONS: positions(torch.from_numpy(mask))[:, -new:].numpy()}
    found |= {KEPT: np.arange(new), **past}
    return {spec.name: found[spec.name].astype(spec.dtype, copy=False) for spec in specs}


def cache_of(outputs: Arrays) -> Arrays:
    """Keys and values among outputs, as inputs of the next step."""
    return {name.replace(PRESENT, PAST, 1): array for name, array in outputs.items() if name.startswith(f"{PRESENT}.")}


def generated(run: Run, specs: Sequence[TensorSpec], tokens: Array, mask: Array) -> Array:
    """Logits (N, positions, vocabulary) of a file: of all but the last ``STEPS`` tokens at once, then one by one."""
    first = max(1, tokens.shape[1] - STEPS)
    begun = torch.from_numpy(tokens[:, :first]), torch.from_numpy(mask[:, :first])
    outputs = run(first_feed(specs, begun))
    logits = [outputs[LOGITS]]
    for end in range(first + 1, tokens.shape[1] + 1):
        outputs = run(next_feed(specs, tokens[:, end - 1 : end], mask[:, :end], cache_of(outputs)))
        logits.append(outputs[LOGITS])
    return np.concatenate(logits, axis=1)


def padded(batch: int, positions_: int) -> Array:
    """A mask (batch, positions): the last row of several has padding in front, as prompts of unequal length have."""
    mask = np.ones((batch, positions_), dtype=np.int64)
    mask[batch - 1, : positions_ // 3 if batch > 1 else 0] = 0
    return mask


def golden_step(step: Step, inputs: Inputs) -> Inputs:
    """A row for a step: the second half of the first tokens of ``inputs``, after the first half."""
    tokens = inputs[0][:, :GOLDEN_LENGTH]
    half, mask = max(1, tokens.shape[1] // 2), torch.ones_like(tokens)
    with torch.no_grad():
        past = step.model(*step.row(tokens[:, :half], mask[:, :half]))[1:]
    new = tokens.shape[1] - half
    return step.row(tokens[:, half:], mask, past, torch.tensor([new - 1]))


def feed_of(specs: tuple[TensorSpec, ...], inputs: Inputs) -> Arrays:
    """What a file of either kind is fed with for a batch of a model's own inputs."""
    return first_feed(specs, inputs) if takes_cache(specs) else as_feed(specs, inputs)


def _empty(spec: TensorSpec, rows: int) -> Array:
    heads, width = spec.shape[1], spec.shape[3]
    assert isinstance(heads, int)
    assert isinstance(width, int)
    return np.zeros((rows, heads, 0, width), dtype=spec.dtype)
