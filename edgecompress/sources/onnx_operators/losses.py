"""Losses, which files that were exported for training hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edgecompress.sources.onnx_operators.base import Node, Operator


def _likelihood(node: Node, logs: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Negative log likelihood of ``logs`` (N, classes, ...) for ``targets`` (N, ...)."""
    ignored, kind = node.get("ignore_index"), node.get("reduction", "mean")
    whole = targets.long()
    counts = torch.ones_like(whole, dtype=torch.bool) if ignored is None else whole != ignored
    safe = torch.where(counts, whole, torch.zeros_like(whole))
    each = torch.ones_like(safe, dtype=logs.dtype) if weights is None else weights[safe]
    each = each * counts
    loss = -logs.gather(1, safe.unsqueeze(1)).squeeze(1) * each
    if kind == "none":
        return loss
    return loss.sum() / each.sum() if kind == "mean" else loss.sum()


def _cross_entropy(node: Node, scores: Tensor, targets: Tensor, weights: Tensor | None = None) -> Any:
    logs = torch.log_softmax(scores, 1)
    loss = _likelihood(node, logs, targets, weights)
    return (loss, logs) if node.wants(1) else loss


OPERATORS = {
    "NegativeLogLikelihoodLoss": Operator(_likelihood),
    "SoftmaxCrossEntropyLoss": Operator(_cross_entropy),
}
