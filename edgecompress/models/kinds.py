"""What a model's outputs are, which decides how errors of them count, and scores that are sums over items."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from edgecompress.errors import ModelError
from edgecompress.models.forms import class_scores

OutputKind = Literal["classes", "tokens", "values"]
"""Scores of classes (N, classes); scores of the next token (N, positions, vocabulary); or numbers of any kind."""

IGNORED = -100
"""A target that does not count, as of padding: what PyTorch's cross-entropy leaves out too."""


@dataclass(frozen=True, slots=True)
class SummedScore:
    """A score made of sums over items, so that no outputs have to be kept: those of a vocabulary are gigabytes.

    Args:
        name: for tables.
        sums: (N, k) of a batch of outputs and targets, float64: what each item adds.
        value: the score of the sums (k,) over all items; higher is better.
        unit: of the score.
    """

    name: str
    sums: Callable[[Any, Tensor], Tensor]
    value: Callable[[Tensor], float]
    unit: str = ""

    def __call__(self, outputs: Any, targets: Tensor) -> float:
        """Of all outputs and targets at once."""
        return self.value(self.sums(outputs, targets).sum(0))


def token_scores(outputs: Any, targets: Tensor) -> Tensor:
    """The scores (N, positions, vocabulary) among a model's outputs.

    Raises:
        ModelError: there are none that fit ``targets`` (N, positions).
    """
    scores = class_scores(outputs)
    if not isinstance(scores, Tensor) or scores.dim() != 3 or scores.shape[:2] != targets.shape:
        raise ModelError(
            "outputs of kind 'tokens' are one output (N, positions, vocabulary), or one called logits, for targets "
            "(N, positions); define loss and score of your own for others"
        )
    return scores


def token_loss(outputs: Any, targets: Tensor) -> Tensor:
    """Cross-entropy of every token, averaged over those that count; 0 where none does.

    Args:
        outputs: scores (N, positions, vocabulary), alone or as ``logits``.
        targets: tokens (N, positions); ``IGNORED`` where none counts.

    Raises:
        ModelError: the outputs are no scores of tokens.
    """
    scores = token_scores(outputs, targets)
    lost = nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return lost / (targets != IGNORED).sum().clamp_min(1)


def token_sums(outputs: Any, targets: Tensor) -> Tensor:
    """(N, 2): of each item the negative logarithms of its tokens' probabilities, summed, and how many count.

    Raises:
        ModelError: the outputs are no scores of tokens.
    """
    scores = token_scores(outputs, targets)
    pairs = zip(scores, targets, strict=True)
    lost = [
        nn.functional.cross_entropy(each.float(), wanted, ignore_index=IGNORED, reduction="sum")
        for each, wanted in pairs
    ]
    return torch.stack((torch.stack(lost).double().cpu(), (targets != IGNORED).sum(1).double().cpu()), 1)


def _negated_perplexity(sums: Tensor) -> float:
    lost, count = sums.tolist()
    return -math.exp(min(700.0, lost / max(1.0, count)))


PERPLEXITY = SummedScore("perplexity, negated", token_sums, _negated_perplexity)
"""Minus the perplexity: scores are better where they are higher."""


def checked_kind(kind: object, name: str) -> OutputKind:
    """``kind`` as one there is.

    Raises:
        ModelError: there is none of this name.
    """
    kinds = get_args(OutputKind)
    if kind not in kinds:
        raise ModelError(f"{name}: outputs {kind!r}; there are {', '.join(map(repr, kinds))}")
    found: OutputKind = next(known for known in kinds if known == kind)
    return found
