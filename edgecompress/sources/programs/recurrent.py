"""Recurrences of a program. PyTorch's operators write past the end where a state is not of the size they expect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
RECURRENT = tuple(GATES)


def recurrent(run: Callable[..., Any]) -> Callable[..., Any]:
    """The operator, of which states of one item stand for any batch, and sizes are looked at first."""
    gates = GATES[str(getattr(run, "__name__", "")).partition(".")[0]]

    def called(given: Tensor, states: Any, weights: list[Tensor], biased: bool, layers: int, *rest: Any) -> Any:  # noqa: FBT001
        both, batch_first = rest[-2:]
        single = isinstance(states, Tensor)
        batch = given.shape[0 if batch_first else 1]
        widths = _hidden(weights, gates, 4 if biased else 2)
        if given.dim() != 3 or len(widths) != layers * (1 + both):
            raise ValueError("has other weights than its layers have")
        kept = [_spread(state, batch, widths) for state in ([states] if single else states)]
        return run(given, kept[0] if single else kept, weights, biased, layers, *rest)

    called._schema = run._schema  # type: ignore[attr-defined]
    return called


def _hidden(weights: list[Tensor], gates: int, each: int) -> list[int]:
    """The width of the state of each layer and direction.

    Raises:
        ValueError: weights do not fit each other.
    """
    groups = [weights[start : start + each] for start in range(0, len(weights), each)]
    for group in groups:
        rows = gates * group[1].shape[-1]
        if len(group) != each or any(item.shape[0] != rows for item in group) or group[1].dim() != 2:
            raise ValueError("has weights that do not fit each other")
    return [int(group[1].shape[1]) for group in groups]


def _spread(state: Tensor, batch: Any, widths: list[int]) -> Tensor:
    """A state for every item of the batch."""
    if state.dim() != 3 or state.shape[0] != len(widths) or {state.shape[2]} != set(widths):
        raise ValueError(f"has a state of shape {tuple(state.shape)}, its weights are for another")
    if state.shape[1] == batch:
        return state
    if state.shape[1] != 1:
        raise ValueError(f"has a state for {state.shape[1]} items, and {batch} come")
    return state.expand(-1, batch, -1)
