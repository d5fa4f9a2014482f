"""Operators of ONNX in PyTorch: one file for each kind of them, one line for each operator in its table."""

from __future__ import annotations

from edgecompress.sources.onnx_operators import (
    convolution,
    elementwise,
    indexing,
    logic,
    losses,
    matrix,
    normalization,
    pooling,
    recurrent,
    reduction,
    resizing,
    shape,
    signal,
)
from edgecompress.sources.onnx_operators.base import Operator

OPERATORS: dict[str, Operator] = {
    **elementwise.OPERATORS,
    **logic.OPERATORS,
    **shape.OPERATORS,
    **indexing.OPERATORS,
    **reduction.OPERATORS,
    **matrix.OPERATORS,
    **convolution.OPERATORS,
    **pooling.OPERATORS,
    **normalization.OPERATORS,
    **resizing.OPERATORS,
    **recurrent.OPERATORS,
    **signal.OPERATORS,
    **losses.OPERATORS,
}
"""By their names in the standard."""
