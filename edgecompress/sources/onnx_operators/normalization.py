"""Normalizations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import DTYPES, Node, Operator


def _batch(node: Node, data: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Any:
    epsilon, momentum = node.get("epsilon", 1e-5), node.get("momentum", 0.9)
    if not node.get("training_mode", 0):
        return functional.batch_norm(data, mean, variance, scale, bias, False, 0.0, epsilon)
    axes = [axis for axis in range(data.dim()) if axis != 1]
    own, spread = data.mean(axes), data.var(axes, unbiased=False)
    normal = functional.batch_norm(data, own, spread, scale, bias, False, 0.0, epsilon)
    return normal, mean * momentum + own * (1 - momentum), variance * momentum + spread * (1 - momentum)


def _instance(node: Node, data: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(data, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def _layer(node: Node, data: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axis, epsilon = node.get("axis", -1) % data.dim(), node.get("epsilon", 1e-5)
    shape = tuple(data.shape[axis:])
    normal = functional.layer_norm(
        data, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon
    )
    if not node.wants(1):
        return normal
    axes = tuple(range(axis, data.dim()))
    mean, variance = data.mean(axes, True), data.var(axes, unbiased=False, keepdim=True)
    return normal, mean, torch.rsqrt(variance + epsilon)


def _root_mean_square(node: Node, data: Tensor, scale: Tensor) -> Tensor:
    axis, epsilon = node.get("axis", -1) % data.dim(), node.get("epsilon", 1e-5)
    inner = data.to(DTYPES[int(node.get("stash_type", 1))])
    square = inner.square().mean(tuple(range(axis, data.dim())), True)
    return (inner * torch.rsqrt(square + epsilon)).to(data.dtype) * scale


def _group(node: Node, data: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.get("num_groups")
    if len(scale) != data.shape[1]:  # of opset 18: one for each group
        scale, bias = (item.repeat_interleave(data.shape[1] // groups) for item in (scale, bias))
    return functional.group_norm(data, groups, scale, bias, node.get("epsilon", 1e-5))


def _lp(node: Node, data: Tensor) -> Tensor:
    order, axis = node.get("p", 2), node.get("axis", -1)
    norm = data.abs().sum(axis, True) if order == 1 else data.square().sum(axis, True).sqrt()
    return torch.where(norm == 0, torch.zeros_like(data), data / norm)


def _mean_variance(node: Node, data: Tensor) -> Tensor:
    axes = node.get("axes", [0, 2, 3])
    centred = data - data.mean(axes, True)
    return centred / (centred.square().mean(axes, True).sqrt() + 1e-9)


def _response(node: Node, data: Tensor) -> Tensor:
    """Local response normalization across channels, by their squares."""
    size, alpha, beta = node.get("size"), node.get("alpha", 1e-4), node.get("beta", 0.75)
    before = (size - 1) // 2
    square = data.square().flatten(2).transpose(1, 2)
    padded = functional.pad(square, (before, size - 1 - before))
    summed = padded.unfold(2, size, 1).sum(-1).transpose(1, 2).reshape(data.shape)
    scale: Tensor = (node.get("bias", 1.0) + alpha / size * summed) ** beta
    return data / scale


OPERATORS = {
    "BatchNormalization": Operator(_batch),
    "InstanceNormalization": Operator(_instance),
    "LayerNormalization": Operator(_layer),
    "RMSNormalization": Operator(_root_mean_square),
    "GroupNormalization": Operator(_group),
    "LpNormalization": Operator(_lp),
    "MeanVarianceNormalization": Operator(_mean_variance),
    "LRN": Operator(_response),
}
