"""Recurrent operators, step by step; those with constant weights and usual activations are layers of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgecompress.sources.onnx_operators import elementwise
from edgecompress.sources.onnx_operators.base import Node, Operator

Cell = Callable[["Gates", Tensor, list[Tensor]], list[Tensor]]

DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


class Gates:
    """The weights of one direction, with what its node says: products of inputs and states, gate by gate."""

    def __init__(self, node: Node, direction: int, given: Sequence[Tensor | None]) -> None:
        weight, recurrent, bias, peepholes = ((item[direction] if item is not None else None) for item in given)
        assert weight is not None
        assert recurrent is not None
        self.node, self.weight, self.recurrent, self.peepholes = node, weight, recurrent, peepholes
        self.size = recurrent.shape[1]
        zeros = weight.new_zeros(2 * len(weight))
        self.bias, self.recurrent_bias = (zeros if bias is None else bias).chunk(2)
        self.activations = _activations(node, direction)

    def of_input(self, given: Tensor) -> Tensor:
        """(..., inputs) to (..., gates * size)."""
        return given @ self.weight.t() + self.bias

    def of_state(self, state: Tensor) -> Tensor:
        """(batch, size) to (batch, gates * size)."""
        return state @ self.recurrent.t() + self.recurrent_bias

    def activate(self, index: int, numbers: Tensor) -> Tensor:
        """By the activation at a place, clipped before if the node says so."""
        clip = self.node.get("clip", 0.0)
        return self.activations[index](numbers.clamp(-clip, clip) if clip else numbers)


def _activations(node: Node, direction: int) -> list[Callable[[Tensor], Tensor]]:
    defaults = DEFAULTS[node.kind]
    names = node.get("activations") or defaults * 2
    count = len(defaults)
    alphas, betas = node.get("activation_alpha") or [], node.get("activation_beta") or []
    chosen = range(direction * count, direction * count + count)
    return [_activation(node, names[index % len(names)], _at(alphas, index), _at(betas, index)) for index in chosen]


def _at(numbers: Sequence[float], index: int) -> float | None:
    return numbers[index] if index < len(numbers) else None


def _activation(node: Node, name: str, alpha: float | None, beta: float | None) -> Callable[[Tensor], Tensor]:
    if name not in elementwise.OPERATORS:
        raise node.refused(f"has the activation {name!r}, which is not known here")
    attributes = {key: value for key, value in (("alpha", alpha), ("beta", beta)) if value is not None}
    return partial(elementwise.OPERATORS[name].run, Node(name, node.name, attributes=attributes))


def _lstm_cell(gates: Gates, given: Tensor, states: list[Tensor]) -> list[Tensor]:
    """Gates in the order of ONNX: input, output, forget, cell."""
    state, cell = states
    enter, leave, forget, new = (given + gates.of_state(state)).chunk(4, -1)
    first, last, keep = gates.peepholes.chunk(3) if gates.peepholes is not None else (0, 0, 0)
    enter = gates.activate(0, enter + first * cell)
    forget = 1 - enter if gates.node.get("input_forget", 0) else gates.activate(0, forget + keep * cell)
    cell = forget * cell + enter * gates.activate(1, new)
    return [gates.activate(0, leave + last * cell) * gates.activate(2, cell), cell]


def _gru_cell(gates: Gates, given: Tensor, states: list[Tensor]) -> list[Tensor]:
    """Gates in the order of ONNX: update, reset, new."""
    (state,) = states
    ours, theirs = given.chunk(3, -1), gates.of_state(state).chunk(3, -1)
    update, reset = gates.activate(0, ours[0] + theirs[0]), gates.activate(0, ours[1] + theirs[1])
    if gates.node.get("linear_before_reset", 0):
        inner = reset * theirs[2]
    else:
        inner = (reset * state) @ gates.recurrent[2 * gates.size :].t() + gates.recurrent_bias[2 * gates.size :]
    new = gates.activate(1, ours[2] + inner)
    return [(1 - update) * new + update * state]


def _rnn_cell(gates: Gates, given: Tensor, states: list[Tensor]) -> list[Tensor]:
    return [gates.activate(0, given + gates.of_state(states[0]))]


def _recurrent(
    cell: Cell,
    count: int,
    node: Node,
    data: Tensor,
    weight: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    *more: Tensor | None,
) -> tuple[Tensor, ...]:
    """Any of them: (steps, batch, inputs) to (steps, directions, batch, size), and the last states."""
    first = bool(node.get("layout", 0))
    data = data.transpose(0, 1) if first else data
    initial = [item.transpose(0, 1) if item is not None and first else item for item in more[:count]]
    initial += [None] * (count - len(initial))
    peepholes = more[count] if len(more) > count else None
    outputs, lasts = [], []
    for index in range(len(weight)):
        gates = Gates(node, index, (weight, recurrent, bias, peepholes))
        zeros = data.new_zeros(data.shape[1], gates.size)
        states = [zeros if item is None else item[index] for item in initial]
        backwards = index == 1 or node.get("direction", "forward") == "reverse"
        steps, states = _steps(cell, gates, data, states, lengths, backwards=backwards)
        outputs.append(steps)
        lasts.append(states)
    whole = torch.stack(outputs, 1)
    states = [torch.stack([last[place] for last in lasts]) for place in range(count)]
    return (whole.permute(2, 0, 1, 3), *(item.transpose(0, 1) for item in states)) if first else (whole, *states)


def _steps(
    cell: Cell, gates: Gates, data: Tensor, states: list[Tensor], lengths: Tensor | None, *, backwards: bool
) -> tuple[Tensor, list[Tensor]]:
    """One direction; items that have ended keep their state and give zeros."""
    given, found = gates.of_input(data), []
    order = range(len(data))
    for step in reversed(order) if backwards else order:
        after = cell(gates, given[step], states)
        if lengths is not None:
            goes_on = (lengths > step)[:, None]
            states = [torch.where(goes_on, new, old) for new, old in zip(after, states, strict=True)]
            found.append(torch.where(goes_on, after[0], torch.zeros_like(after[0])))
        else:
            states = after
            found.append(after[0])
    return torch.stack(found[::-1] if backwards else found), states


def _operator(cell: Cell, count: int) -> Operator:
    def run(node: Node, *inputs: Any) -> tuple[Tensor, ...]:
        return _recurrent(cell, count, node, *inputs)

    return Operator(run)


OPERATORS = {"LSTM": _operator(_lstm_cell, 2), "GRU": _operator(_gru_cell, 1), "RNN": _operator(_rnn_cell, 1)}
