"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from edgecompress.sources.onnx_operators.base import Node, Operator, each


def _gemm(node: Node, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    left = left.t() if node.get("transA", 0) else left
    right = right.t() if node.get("transB", 0) else right
    product = float(node.get("alpha", 1.0)) * (left @ right)
    return product if bias is None else product + float(node.get("beta", 1.0)) * bias


def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.get("equation").replace(" ", ""), *inputs)


OPERATORS = {
    "Gemm": Operator(_gemm),
    "MatMul": each(torch.matmul),
    "Einsum": Operator(_einsum),
    "Det": each(torch.linalg.det),
}
