"""The axes that a weight's numbers lie along, for reshaping it without tearing them apart."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgecompress.costs import Shape
from edgecompress.models import Call, evaluating, observing
from edgecompress.models.datasets import Inputs, first

FLATTENING = (torch.flatten, Tensor.flatten, Tensor.view, torch.reshape, Tensor.reshape)


class _Flattened(TorchFunctionMode):
    """Remembers with every flattened batch what it was flattened from."""

    def __torch_function__(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        given = (*args, *(kwargs or {}).values())
        result = func(*args, **(kwargs or {}))
        if func in FLATTENING and isinstance(given[0], Tensor) and given[0].dim() > result.dim() == 2:
            result._edgecompress_image = tuple(given[0].shape[1:])
        return result


def image_axes(model: nn.Module, inputs: Inputs) -> dict[str, Shape]:
    """Of every Linear that reads a flattened image or map, by name: the axes of that, as (channels, rows, columns)."""
    found: dict[str, Shape] = {}

    def begun(call: Call) -> None:
        axes = getattr(call.args[0], "_edgecompress_image", ()) if call.args else ()
        if prod(axes) == call.layer.in_features and axes:
            found.setdefault(call.name, axes)

    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    with evaluating(model), torch.no_grad(), observing(linear, before=begun), _Flattened():
        model(*first(inputs, 1))
    return found
