"""Nodes with constant weights as layers of PyTorch. What is not said here is a call of an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from edgecompress.sources.onnx_graphs.recurrent import recurrent_layer
from edgecompress.sources.onnx_operators.base import Node
from edgecompress.sources.onnx_operators.convolution import Window, transposed_padding

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


class Weights:
    """The constant inputs of a node, as parameters: one that two nodes use in the same way is one parameter."""

    def __init__(
        self, shared: dict[tuple[str, str], nn.Parameter], names: Sequence[str], tensors: Sequence[Any]
    ) -> None:
        self._shared, self._names, self._tensors = shared, names, tensors

    def at(self, index: int) -> Tensor | None:
        """The tensor at a position; None where there is none, or it is computed."""
        found = self._tensors[index] if index < len(self._tensors) else None
        return found if isinstance(found, Tensor) else None

    def are_constant(self, *indices: int) -> bool:
        """Whether all inputs at these positions are constants in float32, or left out."""
        given = [index for index in indices if index < len(self._names) and self._names[index]]
        return all((found := self.at(index)) is not None and found.dtype == torch.float32 for index in given)

    def parameter(self, index: int, how: str = "", change: Callable[[Tensor], Tensor] = lambda t: t) -> nn.Parameter:
        """The parameter of a position; ``how`` names the ``change`` from what the file holds."""
        found, key = self.at(index), (self._names[index], how)
        assert found is not None
        if key not in self._shared:
            self._shared[key] = nn.Parameter(change(found).contiguous().clone())
        return self._shared[key]


@dataclass(frozen=True, slots=True)
class Made:
    """A layer for a node, what is padded before it (as ``nn.functional.pad`` takes it), and which inputs it has."""

    layer: nn.Module
    padding: tuple[int, ...] = ()
    inputs: tuple[int, ...] = (0,)


def layer_for(node: Node, given: Tensor, weights: Weights) -> Made | None:
    """The layer of a node for an input like ``given``; None where there is none."""
    maker = MAKERS.get(node.kind)
    usable = maker is not None and given.dtype == torch.float32 and weights.are_constant(1, 2, 3, 4)
    return maker(node, given, weights) if maker and usable else None


def _convolution(node: Node, given: Tensor, weights: Weights) -> Made | None:
    weight = weights.at(1)
    if weight is None or weight.dim() != given.dim() or weight.dim() - 2 not in CONVOLUTIONS:
        return None
    window, groups = Window.of(node, weight.shape[2:], given.shape[2:]), int(node.get("group", 1))
    plain = window.begin == window.end
    layer = skip_init(
        CONVOLUTIONS[weight.dim() - 2],
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=window.strides,
        padding=window.begin if plain else 0,
        dilation=window.dilations,
        groups=groups,
        bias=weights.at(2) is not None,
    )
    return Made(_filled(layer, weights), () if plain else window.padding())


def _transposed(node: Node, given: Tensor, weights: Weights) -> Made | None:
    weight = weights.at(1)
    if weight is None or weight.dim() != given.dim() or weight.dim() - 2 not in TRANSPOSED:
        return None
    padding = transposed_padding(node, weight.shape[2:], given.shape[2:])
    if padding is None:
        return None
    window, groups = Window.of(node, weight.shape[2:], given.shape[2:]), int(node.get("group", 1))
    layer = skip_init(
        TRANSPOSED[weight.dim() - 2],
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        stride=window.strides,
        padding=padding[0],
        output_padding=padding[1],
        dilation=window.dilations,
        groups=groups,
        bias=weights.at(2) is not None,
    )
    return Made(_filled(layer, weights))


def _filled(layer: nn.Module, weights: Weights) -> nn.Module:
    layer.weight = weights.parameter(1)
    if weights.at(2) is not None:
        layer.bias = weights.parameter(2)
    return layer


def _gemm(node: Node, given: Tensor, weights: Weights) -> Made | None:
    weight, bias = weights.at(1), weights.at(2)
    if weight is None or weight.dim() != 2 or given.dim() != 2 or node.get("transA", 0):
        return None
    alpha, beta, kept = float(node.get("alpha", 1.0)), float(node.get("beta", 1.0)), bool(node.get("transB", 0))
    outputs, inputs = weight.shape if kept else weight.shape[::-1]
    if bias is not None and bias.shape not in ((outputs,), (1, outputs), (1,), ()):
        return None
    layer = skip_init(nn.Linear, inputs, outputs, bias=bias is not None)
    layer.weight = weights.parameter(
        1, f"gemm {alpha} {kept}", lambda found: alpha * found if kept else alpha * found.t()
    )
    if bias is not None:
        layer.bias = weights.parameter(2, f"gemm {beta}", lambda found: beta * found.reshape(-1).expand(outputs))
    return Made(layer)


def _matmul(_node: Node, given: Tensor, weights: Weights) -> Made | None:
    """A product with a matrix; the bias, where there is one, is the third input."""
    weight, bias = weights.at(1), weights.at(2)
    if weight is None or weight.dim() != 2 or not given.dim():
        return None
    inputs, outputs = weight.shape
    layer = skip_init(nn.Linear, inputs, outputs, bias=bias is not None)
    layer.weight = weights.parameter(1, "gemm 1.0 False", lambda found: found.t())
    if bias is not None:
        layer.bias = weights.parameter(2, "bias", lambda found: found.reshape(outputs))
    return Made(layer)


def _norm(node: Node, given: Tensor, weights: Weights) -> Made | None:
    found = [weights.at(index) for index in (1, 2, 3, 4)]
    if given.dim() not in NORMS or node.get("training_mode", 0) or any(item is None for item in found):
        return None
    layer = skip_init(NORMS[given.dim()], int(given.shape[1]), eps=float(node.get("epsilon", 1e-5)))
    layer.weight, layer.bias = weights.parameter(1), weights.parameter(2)
    mean, variance = found[2:]
    assert mean is not None
    assert variance is not None
    layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    layer.num_batches_tracked = torch.tensor(0)
    return Made(layer)


def _recurrent(node: Node, _given: Tensor, weights: Weights) -> Made | None:
    layer = recurrent_layer(node, [weights.at(index) for index in (1, 2, 3)])
    return None if layer is None else Made(layer, inputs=(0, 5, 6) if node.kind == "LSTM" else (0, 5))


MAKERS: dict[str, Callable[[Node, Tensor, Weights], Made | None]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _norm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
