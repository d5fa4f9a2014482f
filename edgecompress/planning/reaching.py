"""Which layers the outputs of a model are computed from: those that run in vain are not worth a rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from edgecompress.models import (
    Call,
    copied,
    named_layers,
    observing,
    same,
    shared_copy,
    tensors_of,
    unfused_attention,
    without_numbers,
)
from edgecompress.models.datasets import Inputs, first

IN_VAIN = "its output reaches no output of the model"
READ = "its weight is used past its forward, as in F.linear(x, layer.weight), where a chain would not be seen"


def connected(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> frozenset[str] | None:
    """Those of the layers ``names`` whose weights a gradient of the outputs reaches, by one run without arithmetic.

    None where that cannot be seen: the model runs on no copy, or its outputs have no gradients.
    """
    for twin_of, given in _ways(inputs):
        reached = _connected(twin_of, model, given, names)
        if reached is not None:
            return reached
    return None


def _connected(
    twin_of: Callable[[nn.Module], nn.Module], model: nn.Module, inputs: Inputs, names: Sequence[str]
) -> frozenset[str] | None:
    try:
        twin = twin_of(model).eval()
        for parameter in twin.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        with unfused_attention(), torch.enable_grad():
            reached = _leaves(list(tensors_of(twin(*inputs))))
    except Exception:  # a model fails in its own way on what it cannot see; then the next way is tried
        return None
    return frozenset(name for name in names if _own(twin, name) & reached) if reached else None


def _ways(inputs: Inputs) -> list[tuple[Callable[[nn.Module], nn.Module], Inputs]]:
    """Copies that a model may run on, with inputs for them, as costs are counted: without numbers, and with them."""
    batches = (first(inputs, 1), inputs)
    ways = [((without_numbers, tuple(given.to("meta") for given in batch)), (copied, batch)) for batch in batches]
    return [way for pair in ways for way in pair]


def _own(model: nn.Module, name: str) -> set[int]:
    return {id(parameter) for parameter in model.get_submodule(name).parameters(recurse=False)}


def _leaves(outputs: Sequence[Tensor]) -> set[int]:
    """Parameters, by identity, at the ends of the graphs of ``outputs``."""
    left = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(left)
    found = {id(output) for output in outputs if output.grad_fn is None and output.requires_grad}
    while left:
        node = left.pop()
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        new = {following for following, _ in node.next_functions if following is not None} - seen
        seen |= new
        left.extend(new)
    return found


def in_vain(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> list[str]:
    """Those of the layers ``names`` of which nothing shows in the outputs though they give nothing but NaN.

    One run where that is all of them; else about two for each that is not.
    """
    if not names or _outputs(model, inputs, ()) is None:
        return []
    if _silent(model, inputs, names):
        return list(names)
    middle = len(names) // 2
    halves = (names[:middle], names[middle:]) if middle else ()
    return [name for half in halves for name in in_vain(model, inputs, half)]


def _silent(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> bool:
    expected, changed = _outputs(model, inputs, ()), _outputs(model, inputs, names)
    if expected is None or changed is None or len(expected) != len(changed):
        return False
    return all(map(same, changed, expected))


def _outputs(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> list[Tensor] | None:
    """What a copy gives when layers give NaN; None: it does not run."""
    twin = shared_copy(model).eval()
    try:
        with torch.no_grad(), unfused_attention(), observing(named_layers(twin, names), after=_poison):
            return list(tensors_of(twin(*(given.clone() for given in inputs))))
    except Exception:  # as in a dry run: whatever a model raises where it meets NaN
        return None


def _poison(call: Call) -> Tensor | None:
    return torch.full_like(call.output, torch.nan) if isinstance(call.output, Tensor) else None


def unreached(model: nn.Module, inputs: Inputs, runs: Mapping[str, bool]) -> dict[str, str]:
    """Reasons, by name, to leave layers dense: those that run in vain, and those whose weight is used without a run.

    Args:
        model: is not changed.
        inputs: an example, batch first.
        runs: for each layer whether it was called on them.
    """
    reached = connected(model, inputs, list(runs))
    if reached is None:
        return {}
    suspects = [name for name, ran in runs.items() if ran and name not in reached]
    read = {name: READ for name, ran in runs.items() if not ran and name in reached}
    return read | dict.fromkeys(in_vain(model, inputs, suspects), IN_VAIN)
