"""Operators of single numbers: arithmetic, activations, casts."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import DTYPES, Node, Operator, each, in_int64, single


def _divide(left: Tensor, right: Tensor) -> Tensor:
    """Whole numbers are cut towards zero."""
    return left / right if left.is_floating_point() else torch.div(left, right, rounding_mode="trunc")


def _power(base: Tensor, exponent: Tensor) -> Tensor:
    """Of the base's type."""
    if base.is_floating_point() or not exponent.is_floating_point():
        return torch.pow(base, exponent).to(base.dtype)
    return torch.pow(base.double(), exponent.double()).to(base.dtype)


def _modulo(node: Node, left: Tensor, right: Tensor) -> Tensor:
    found: Tensor = in_int64(torch.fmod if node.get("fmod", 0) else torch.remainder)(left, right)
    return found


def _shift(node: Node, left: Tensor, right: Tensor) -> Tensor:
    """Of unsigned numbers; what is shifted beyond their width is 0."""
    run = torch.bitwise_left_shift if node.get("direction") == "LEFT" else _shifted_right
    return run(left.long(), right.long()).to(left.dtype)


def _shifted_right(left: Tensor, right: Tensor) -> Tensor:
    """With zeros from the left, in 64 bits too."""
    shifted = torch.bitwise_right_shift(left, right)
    mask = torch.bitwise_left_shift(torch.full_like(right, -1), (64 - right).clamp(max=63))
    return torch.where((left < 0) & (right > 0), shifted & ~mask, shifted)


def _clip(_node: Node, data: Tensor, low: Any = None, high: Any = None) -> Tensor:
    found: Tensor = in_int64(lambda given: _clipped(given, single(low), single(high)))(data)
    return found


def _clipped(data: Tensor, low: float | None, high: float | None) -> Tensor:
    if low is None and high is None:
        return data
    return torch.clamp(data, low, high)


def _activation(function: Callable[..., Tensor], **defaults: Any) -> Operator:
    """Attributes, by these names and defaults, are given by position behind the data."""
    return Operator(lambda node, data: function(data, *(node.get(name, value) for name, value in defaults.items())))


def _hard_sigmoid(data: Tensor, alpha: float, beta: float) -> Tensor:
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return functional.hardsigmoid(data)
    return torch.clamp(data * alpha + beta, 0, 1)


def _selu(data: Tensor, alpha: float, gamma: float) -> Tensor:
    return gamma * torch.where(data > 0, data, alpha * (torch.exp(data) - 1))


def _celu(data: Tensor, alpha: float) -> Tensor:
    return torch.clamp(data, min=0) + torch.clamp(alpha * torch.expm1(data / alpha), max=0)


def _gelu(data: Tensor, approximate: str) -> Tensor:
    return functional.gelu(data, approximate=approximate)


def _shrink(data: Tensor, bias: float, lambd: float) -> Tensor:
    moved = torch.where(data < -lambd, data + bias, torch.where(data > lambd, data - bias, torch.zeros_like(data)))
    return moved.to(data.dtype)


def _thresholded(data: Tensor, alpha: float) -> Tensor:
    return torch.where(data > alpha, data, torch.zeros_like(data))


def _parametric(data: Tensor, slope: Tensor) -> Tensor:
    return torch.where(data < 0, data * slope, data)


def _swish(data: Tensor, alpha: float) -> Tensor:
    return functional.silu(data) if alpha == 1 else data * torch.sigmoid(alpha * data)


def _swiglu(node: Node, data: Tensor, gate: Tensor) -> Tensor:
    return _swish(data, node.get("alpha", 1.0)) * gate


def _elu(data: Tensor, alpha: float) -> Tensor:
    return functional.elu(data, alpha)


def _cast(node: Node, data: Tensor) -> Tensor:
    return cast(data, DTYPES[int(node.get("to"))])


def cast(data: Tensor, kind: torch.dtype) -> Tensor:
    """As a type; whole numbers beyond it wrap."""
    if data.is_floating_point() and not kind.is_floating_point and kind != torch.bool:
        return data.to(torch.int64).to(kind)
    return data.to(kind)


def _dropout(node: Node, data: Tensor, ratio: Any = None, training: Any = None) -> Any:
    """Nothing at inference."""
    if single(training) and single(ratio) != 0:
        raise node.refused("is in training mode; export the model in eval mode")
    return (data, torch.ones_like(data, dtype=torch.bool)) if node.wants(1) else data


def _is_infinite(node: Node, data: Tensor) -> Tensor:
    positive, negative = node.get("detect_positive", 1), node.get("detect_negative", 1)
    found = torch.zeros_like(data, dtype=torch.bool)
    if positive:
        found = found | torch.isposinf(data)
    return found | torch.isneginf(data) if negative else found


def _several(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return each(in_int64(lambda *inputs: reduce(function, inputs)))


def _mean(*inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


def _softsign(data: Tensor) -> Tensor:
    return data / (1 + data.abs())


def _mish(data: Tensor) -> Tensor:
    return data * torch.tanh(functional.softplus(data))


def _softplus(data: Tensor) -> Tensor:
    return torch.logaddexp(data, torch.zeros_like(data)) if data.dtype != torch.float32 else functional.softplus(data)


def _bits(node: Node, data: Tensor) -> Tensor:
    """BitCast: the same bytes, as another type of the same width."""
    return data.view(DTYPES[int(node.get("to"))])


WHOLE: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": _divide,
    "Neg": torch.neg,
    "Sign": torch.sign,
    "Pow": _power,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseXor": torch.bitwise_xor,
}
"""Of whole numbers of all types too."""

SIMPLE: dict[str, Callable[..., Any]] = {
    "Acos": torch.acos,
    "Acosh": torch.acosh,
    "Asin": torch.asin,
    "Asinh": torch.asinh,
    "Atan": torch.atan,
    "Atanh": torch.atanh,
    "BitwiseNot": in_int64(torch.bitwise_not),
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": functional.hardswish,
    "Identity": lambda data: data,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mean": _mean,
    "Mish": _mish,
    "PRelu": _parametric,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": _softplus,
    "Softsign": _softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}

OPERATORS = {
    **{name: each(in_int64(function)) for name, function in WHOLE.items()},
    **{name: each(function) for name, function in SIMPLE.items()},
    "Max": _several(torch.maximum),
    "Min": _several(torch.minimum),
    "Sum": _several(torch.add),
    "Mod": Operator(_modulo),
    "BitShift": Operator(_shift),
    "BitCast": Operator(_bits),
    "Clip": Operator(_clip, known=(1, 2)),
    "Cast": Operator(_cast),
    "CastLike": each(lambda data, like: cast(data, like.dtype)),
    "SwiGLU": Operator(_swiglu),
    "Dropout": Operator(_dropout, known=(1, 2)),
    "IsInf": Operator(_is_infinite),
    "Elu": _activation(_elu, alpha=1.0),
    "Celu": _activation(_celu, alpha=1.0),
    "Gelu": _activation(_gelu, approximate="none"),
    "HardSigmoid": _activation(_hard_sigmoid, alpha=0.2, beta=0.5),
    "LeakyRelu": _activation(functional.leaky_relu, alpha=0.01),
    "Selu": _activation(_selu, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Shrink": _activation(_shrink, bias=0.0, lambd=0.5),
    "Swish": _activation(_swish, alpha=1.0),
    "ThresholdedRelu": _activation(_thresholded, alpha=1.0),
}
