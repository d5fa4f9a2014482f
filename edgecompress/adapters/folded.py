"""Weights that PyTorch computes on every call: weight and spectral normalization, orthogonal weights, pruning masks.

They are worked out once: in eval mode they are always the same. Fine-tuning then trains the weight itself; a pruned
weight stays as sparse as decomposition leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from edgecompress.adapters.base import Unadaptable

OWN = "torch.nn.utils."
"""Where PyTorch's own computed weights are; what others compute is not known to stay the same."""


class Folded:
    """``weight_norm`` and ``spectral_norm``, old and new, ``orthogonal``, and ``prune``."""

    name = "folded"
    summary = "weight_norm, spectral_norm, orthogonal and prune of torch.nn.utils: folded into the weight"
    notice = "weights that are computed on every call are worked out once"

    def recognizes(self, module: nn.Module) -> bool:
        """By the hooks and parametrizations of PyTorch's own."""
        if parametrize.is_parametrized(module):
            return all(type(one).__module__.startswith(OWN) for one in _parametrizations(module))
        return any(type(hook).__module__.startswith(OWN) for hook in module._forward_pre_hooks.values())

    def adapt(self, module: nn.Module) -> nn.Module:
        """The module with weights of its own.

        Raises:
            Unadaptable: PyTorch cannot work them out.
        """
        mode = module.training
        for inner in module.modules():
            for name, parameter in inner.named_parameters(recurse=False):
                inner._parameters[name] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        try:
            _fold(module.eval())
        except Exception as error:
            raise Unadaptable(f"its computed weight cannot be worked out: {error}") from None
        return module.train(mode)


def _lists(module: nn.Module) -> nn.ModuleDict:
    """The parametrizations by the name of what they compute."""
    lists = module.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    return lists


def _parametrizations(module: nn.Module) -> Iterator[nn.Module]:
    for one in _lists(module).values():
        assert isinstance(one, nn.ModuleList)
        yield from one


def _fold(module: nn.Module) -> None:
    """In place; the module has parameters of its own."""
    with torch.no_grad():
        if parametrize.is_parametrized(module):
            _unparametrize(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)


def _unparametrize(module: nn.Module) -> None:
    """As ``remove_parametrizations``, which would change the class that the user's own layer has too."""
    lists = _lists(module)
    trained = {name: any(p.requires_grad for p in of.parameters()) for name, of in lists.items()}
    values = {name: getattr(module, name).clone() for name in lists}
    module.__class__ = type(module).__mro__[1]
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, trained[name]))
