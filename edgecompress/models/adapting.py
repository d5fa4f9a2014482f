"""Models as they are surveyed: what an adapter knows is rewritten into layers that can be decomposed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import nn

from edgecompress.adapters import ADAPTERS, Adapter, Unadaptable
from edgecompress.errors import ModelError
from edgecompress.layers import WHY_NOT, put
from edgecompress.models.accepting import unwrapped
from edgecompress.models.copying import shared_copy
from edgecompress.models.datasets import Inputs
from edgecompress.models.execution import Outputs, check_runs, evaluating, same, unfused_attention
from edgecompress.progress import notice

USED = "adapted_by"
"""The attribute of an adapted model that names its adapters."""


def adapters_of(model: nn.Module) -> tuple[str, ...]:
    """The adapters that changed a model, which a plan for it records."""
    return tuple(vars(model).get(USED, ()))


def adapted(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """``model`` without wrappers, rewritten by these adapters; the model itself where they find nothing.

    Raises:
        ModelError: there is no adapter of such a name here.
    """
    model = unwrapped(model)
    for name in names:
        if name not in ADAPTERS:
            raise ModelError(f"was made with an adapter {name!r}, which is not here; there are {', '.join(ADAPTERS)}")
        model = _rewritten(model, ADAPTERS[name])
    return model


def adapted_for(model: nn.Module, inputs: Inputs, name: str) -> nn.Module:
    """``model`` without wrappers, rewritten by all adapters that it does not notice on ``inputs``.

    A model that does not run on them is left as it is.
    """
    model = unwrapped(model)
    expected: Outputs | None = None
    for adapter in ADAPTERS.values():
        changed = _rewritten(model, adapter)
        if changed is model:
            continue
        with unfused_attention(), evaluating(model):
            try:
                expected = expected or check_runs(model, inputs, name)
            except ModelError:
                return model
            why = _noticed(changed, inputs, name, expected)
        if why and adapters_of(changed) != adapters_of(model):
            notice(f"{name}: is not rewritten by the adapter {adapter.name!r}: {why}")
            continue
        if adapter.notice and adapters_of(changed) != adapters_of(model):
            notice(f"{name}: {adapter.notice}")
        model = changed
    return model


def _noticed(model: nn.Module, inputs: Inputs, name: str, expected: Outputs) -> str:
    """Why a rewritten model is not what it was, or an empty string."""
    try:
        with evaluating(model):
            outputs = check_runs(model, inputs, name)
    except ModelError as error:
        return f"the model then does not run ({error})"
    alike = len(outputs) == len(expected) and all(map(same, outputs, expected))
    return "" if alike else "the model then gives other outputs"


def _rewritten(model: nn.Module, adapter: Adapter) -> nn.Module:
    """A copy, with the parameters of ``model``, in which ``adapter`` has rewritten what it knows; else ``model``."""
    if not any(_is_new(module, adapter) for module in model.modules()):
        return model
    changed, used = shared_copy(model), False
    shared = _shared(changed)
    made: dict[int, nn.Module] = {}
    for path, module in list(changed.named_modules(remove_duplicate=False)):
        if id(module) not in made and not _is_new(module, adapter):
            continue
        if id(module) not in made:
            made[id(module)] = _adapt(module, adapter, shared)
            used = used or adapter.name not in vars(module).get(WHY_NOT, {})
        changed = put(changed, path, made[id(module)])
    if used:
        setattr(changed, USED, (*adapters_of(model), adapter.name))
    return changed


def _is_new(module: nn.Module, adapter: Adapter) -> bool:
    """Whether the adapter knows a module, and has not refused it before."""
    return adapter.name not in vars(module).get(WHY_NOT, {}) and adapter.recognizes(module)


def _shared(model: nn.Module) -> set[int]:
    """Parameters that several modules have."""
    counts = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return {one for one, count in counts.items() if count > 1}


def _adapt(module: nn.Module, adapter: Adapter, shared: set[int]) -> nn.Module:
    """What takes the place of ``module``, or itself, marked with the reason where it is refused."""
    before = {id(parameter) for parameter in module.parameters()}
    try:
        made = adapter.adapt(module)
        if before & shared - {id(parameter) for parameter in made.parameters()}:
            raise Unadaptable("tied: shares its weight with another layer")
        if made is not module and (module._forward_hooks or module._forward_pre_hooks):
            raise Unadaptable("carries forward hooks, which a rewritten layer would lose")
    except Unadaptable as refused:
        setattr(module, WHY_NOT, {**vars(module).get(WHY_NOT, {}), adapter.name: str(refused)})
        return module
    return made
