"""Recurrent nodes with constant weights as PyTorch's LSTM, GRU and RNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edgecompress.sources.onnx_operators.base import Node
from edgecompress.sources.onnx_operators.recurrent import DEFAULTS

KINDS: dict[str, Callable[..., nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}
ORDERS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
"""Places of PyTorch's gates among those of ONNX."""


class Recurrent(nn.Module):
    """PyTorch's layer ``rnn``, its inputs and outputs in the order of the axes that a file has.

    Args:
        rnn: of one layer, steps first.
        backwards: it goes from the last step to the first.
        first: the batch is the first axis, also of states.
    """

    def __init__(self, rnn: nn.RNNBase, *, backwards: bool, first: bool) -> None:
        super().__init__()
        self.rnn, self.backwards, self.first = rnn, backwards, first

    def forward(self, data: Tensor, state: Tensor | None = None, cell: Tensor | None = None) -> tuple[Tensor, ...]:
        """(steps, batch, inputs) to (steps, directions, batch, size), and the last states."""
        data = self._turned(data.transpose(0, 1) if self.first else data)
        given = [item.transpose(0, 1).contiguous() if self.first else item for item in self._states(data, state, cell)]
        whole, last = self.rnn(data, tuple(given) if len(given) > 1 else given[0])
        lasts = last if isinstance(last, tuple) else (last,)
        steps = self._turned(whole).unflatten(2, (-1, self.rnn.hidden_size))
        if self.first:
            return steps.transpose(0, 1), *(item.transpose(0, 1) for item in lasts)
        return steps.transpose(1, 2), *lasts

    def _turned(self, data: Tensor) -> Tensor:
        return data.flip(0) if self.backwards else data

    def _states(self, data: Tensor, *given: Tensor | None) -> list[Tensor]:
        count, directions = (2 if isinstance(self.rnn, nn.LSTM) else 1), 2 if self.rnn.bidirectional else 1
        shape = (directions, data.shape[1], self.rnn.hidden_size)
        shape = (shape[1], shape[0], shape[2]) if self.first else shape
        return [data.new_zeros(shape) if item is None else item for item in given[:count]]


def recurrent_layer(node: Node, tensors: Sequence[Tensor | None]) -> Recurrent | None:
    """The layer of a node with the constant ``tensors`` weights, recurrent weights and biases; None where none is."""
    weight, recurrent, bias = tensors
    if weight is None or recurrent is None or not _is_usual(node):
        return None
    directions, _, inputs = weight.shape
    both = directions == 2
    layer = KINDS[node.kind](inputs, recurrent.shape[2], bias=bias is not None, bidirectional=both, device="meta")
    for direction in range(directions):
        names = {"weight_ih": weight[direction], "weight_hh": recurrent[direction]}
        if bias is not None:
            names |= dict(zip(("bias_ih", "bias_hh"), bias[direction].chunk(2), strict=True))
        for name, tensor in names.items():
            gates = tensor.chunk(len(ORDERS[node.kind]))
            ordered = torch.cat([gates[place] for place in ORDERS[node.kind]])
            setattr(layer, f"{name}_l0{'_reverse' * direction}", nn.Parameter(ordered.clone()))
    layer.flatten_parameters()
    return Recurrent(layer, backwards=node.get("direction") == "reverse", first=bool(node.get("layout", 0)))


def _is_usual(node: Node) -> bool:
    """Whether PyTorch's layer does the same: usual activations, no clipping, lengths, peepholes or coupled gates."""
    usual = list(node.get("activations") or [])
    default = DEFAULTS[node.kind]
    same = not usual or usual in (default, default * 2)
    plain = not (node.get("clip", 0) or node.get("input_forget", 0) or node.get("activation_alpha"))
    lengths, peepholes = (len(node.inputs) > place and bool(node.inputs[place]) for place in (4, 7))
    reset = node.kind != "GRU" or bool(node.get("linear_before_reset", 0))
    return same and plain and reset and not lengths and not peepholes
