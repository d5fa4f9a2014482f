"""Copies of models, for work that must not change them."""

from __future__ import annotations

import copy
import hashlib
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn

from edgecompress.models.datasets import raw_bytes


def copied(model: nn.Module, replaced: Collection[str] = ()) -> nn.Module:
    """A deep copy; tensors that a hook computed from parameters, which ``deepcopy`` refuses, as numbers.

    Layers ``replaced``, by name, keep the parameters of ``model`` that nothing else has: they are not to stay.
    """
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _loose_tensors(model) if not t.is_leaf}
    named = model.named_parameters(remove_duplicate=False)
    kept = {id(parameter) for name, parameter in named if name.rpartition(".")[0] not in replaced}
    layers = (model.get_submodule(name) for name in replaced)
    own = (parameter for layer in layers for parameter in layer.parameters(recurse=False))
    return copy.deepcopy(model, memo | {id(one): one for one in own if id(one) not in kept})


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy with the parameters of ``model`` itself and with buffers of its own: what a run changes stays in it."""
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _loose_tensors(model) if not t.is_leaf}
    return copy.deepcopy(model, memo | {id(parameter): parameter for parameter in model.parameters()})


def untrained_copy(model: nn.Module) -> nn.Module:
    """A frozen copy with the numbers of ``model`` and parameters of its own, so that moving it moves nothing else."""
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _loose_tensors(model) if not t.is_leaf}
    own = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters() if type(p) is nn.Parameter}
    return copy.deepcopy(model, memo | own).requires_grad_(False)


def without_numbers(model: nn.Module) -> nn.Module:
    """A copy on the meta device: its tensors have shapes but no numbers, and nothing is allocated."""
    memo: dict[int, Any] = {id(t): t.detach().to("meta") for t in (*model.buffers(), *_loose_tensors(model))}
    memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def put_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill ``model`` with ``state``, as it is written by the versions of the modules in ``model``.

    Files of tensors, and dicts that were put together, lack the versions, and a module may take what has none for
    weights of an older release and rewrite it.

    Raises:
        RuntimeError: names or shapes differ.
    """
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(versioned)


def state_digest(model: nn.Module | None) -> str:
    """A digest of a model's weights and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items() if model is not None else ():
        digest.update(name.encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def _loose_tensors(model: nn.Module) -> list[Tensor]:
    """Tensors that are mere attributes of a module, neither parameters nor buffers."""
    return [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
