"""What kind of module a model is: wrappers are taken off, sealed ones are refused, other precisions become float32."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
import torch.fx
from torch import Tensor, nn

from edgecompress.errors import ModelError
from edgecompress.layers import put
from edgecompress.progress import notice

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
COMPILED = "OptimizedModule"
"""What ``torch.compile`` gives; importing its type would import the compiler."""

QUANTIZED = (
    "torch.ao.nn.quantized",
    "torch.nn.quantized",
    "torch.ao.nn.intrinsic.quantized",
    "bitsandbytes",
    "torchao",
)
TRAINED_QUANTIZED = ("torch.ao.nn.qat", "torch.ao.nn.intrinsic.qat", "torch.ao.quantization.fake_quantize")


def accepted(model: object, name: str, place: str = "") -> nn.Module:
    """``model`` without wrappers, in float32 on the CPU, with a notice where that changed it.

    ``name`` and ``place``, where the function that gave it is written, are for messages.

    Raises:
        ModelError: it is no module, or one whose layers cannot be reached.
    """
    if not isinstance(model, nn.Module):
        _refuse_other(model, name, place)
    assert isinstance(model, nn.Module)
    inner = unwrapped(model)
    refuse_sealed(inner, name)
    for module in inner.modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            module._compiled_call_impl = None
    return _in_float32(inner, name)


def unwrapped(model: nn.Module) -> nn.Module:
    """What ``torch.compile``, ``DataParallel`` or ``DistributedDataParallel`` was put around, at any depth."""
    while (inner := _inside(model)) is not None:
        model = inner
    if any(_inside(module) is not None for module in model.modules()):
        model = copy.deepcopy(model)
        for name, module in list(model.named_modules()):
            if _inside(module) is not None:
                put(model, name, unwrapped(module))
        return unwrapped(model)
    return model


def _inside(module: nn.Module) -> nn.Module | None:
    inner = None
    if isinstance(module, WRAPPERS):
        inner = module.module
    elif type(module).__name__ == COMPILED:
        inner = getattr(module, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def refuse_sealed(model: nn.Module, name: str) -> None:
    """Refuse a model that has no layers to replace, because they were compiled away or have no numbers to work on.

    Raises:
        ModelError: with what it is, and what to give instead.
    """
    for path, module in model.named_modules():
        fact = _sealed(module) or next(filter(None, map(_without_numbers, module.parameters(recurse=False))), "")
        if fact:
            where = f" (its {path!r})" if path else ""
            raise ModelError(f"{name}: {fact}{where}; give the torch.nn.Module in float32 that it was made from")


def _sealed(module: nn.Module) -> str:
    """Why the layers of a module cannot be reached, or an empty string."""
    kind = f"{type(module).__module__}.{type(module).__name__}"
    if isinstance(module, torch.jit.ScriptModule):
        return "is scripted or traced by torch.jit, which seals its layers"
    if isinstance(module, torch.fx.GraphModule) and any(
        isinstance(node.target, torch._ops.OpOverload) for node in module.graph.nodes
    ):
        return "is a program of torch.export, whose layers are dissolved into operators"
    if kind.startswith(QUANTIZED):
        return f"is quantized ({kind}); files are quantized by `edgecompress export --quantize`"
    if kind.startswith(TRAINED_QUANTIZED):
        return f"is prepared for training with quantization ({kind})"
    return ""


def _without_numbers(parameter: Tensor) -> str:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        return "has lazy layers that have not seen an input; run it once in model()"
    if parameter.is_meta:
        return "has weights without numbers, on the meta device; load them in model()"
    if parameter.is_quantized or type(parameter.data) is not Tensor:
        return f"is quantized (a weight is a {type(parameter.data).__name__})"
    return ""


def _refuse_other(model: object, name: str, place: str) -> None:
    if type(model).__name__ == "ExportedProgram":
        raise ModelError(
            f"{name}: model(){place} gave a program of torch.export, whose layers are dissolved into operators; give "
            "the torch.nn.Module it was made from"
        )
    hint = (
        "; build the model, load_state_dict() that into it, and return the model" if isinstance(model, Mapping) else ""
    )
    raise ModelError(f"{name}: model(){place} gave a {type(model).__name__}, a torch.nn.Module was expected{hint}")


def _in_float32(model: nn.Module, name: str) -> nn.Module:
    """A copy in float32 on the CPU where some weights are not."""
    kinds = {
        str(parameter.dtype).removeprefix("torch.")
        for parameter in model.parameters()
        if parameter.is_floating_point() and parameter.dtype != torch.float32
    }
    if kinds:
        notice(f"{name}: its weights in {', '.join(sorted(kinds))} are taken in float32")
    away = any(parameter.device.type != "cpu" for parameter in model.parameters())
    return copy.deepcopy(model).float().cpu() if kinds or away else model
