"""decompose(): a copy of a model with a plan's layers replaced by chains of plain layers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.calibrating.sensitivity import Metric
from edgecompress.codecs import CODECS
from edgecompress.codecs.ada_tucker import Codec, dims_of, install
from edgecompress.codecs.dimensions import ORDERS
from edgecompress.costs import cost
from edgecompress.decomposing.dry_run import noticed_by_trace
from edgecompress.decomposing.hollow import is_hollow
from edgecompress.decompositions import DECOMPOSITIONS, Decomposition, Factors
from edgecompress.decompositions.base import NUMERICAL, stacked
from edgecompress.decompositions.kernels import groups_of, kernels, weight_from, weight_of
from edgecompress.decompositions.sketch import Sketch
from edgecompress.errors import PlanError, first_line
from edgecompress.layers import put, refuse_unusable, weighted_layers, with_geometry
from edgecompress.models import copied, shared_copy
from edgecompress.models.adapting import adapted
from edgecompress.models.datasets import Inputs
from edgecompress.plans import CompressionPlan, LayerPlan, Ranks, Skipped
from edgecompress.progress import Progress, silent


def decompose(
    model: nn.Module, plan: CompressionPlan, *, fill: bool = True, shared: bool = False, progress: Progress = silent
) -> nn.Module:
    """A copy of ``model`` in which each planned layer is an ``nn.Sequential`` of standard layers.

    A layer planned for a codec stays what it is, its weight computed from factors. A plan that no ``plan()`` made is
    checked for layers that the model looks at, as far as that shows without inputs.

    Args:
        model: the dense model; it stays as it is.
        plan: for exactly its layers.
        fill: fit the factors to the weights; False: only the structure, for a ``load_state_dict`` to fill. The copy
            plus the plan and the compressed ``state_dict`` is the compressed model bit for bit.
        shared: the parameters of all other layers are those of ``model`` itself.
        progress: is called for each layer.

    Returns:
        The copy; buffers, names and modes of all other modules are the model's.

    Raises:
        PlanError: the plan is for another model, or names a layer or ranks that do not fit.
    """
    model = adapted(model, plan.adapters)
    check_plan(model, plan)
    if fill and not plan.rehearsed:
        refuse_noticed(noticed_by_trace(model, replaced(plan)))
    changed = shared_copy(model) if shared else copied(model, replaced(plan))
    if uses_codec(plan):
        install(changed, plan.layers, shared=CODECS[plan.layers[0].method].shared, fill=fill)
        return changed
    for done, layer_plan in enumerate(plan.layers, start=1):
        progress("decompose", done, len(plan.layers), layer_plan.name)
        changed = put(
            changed, layer_plan.name, replacement(changed.get_submodule(layer_plan.name), layer_plan, fill=fill)
        )
    return changed


def check_plan(model: nn.Module, plan: CompressionPlan) -> None:
    """Prove that ``plan`` speaks of exactly the layers of ``model``, with ranks that fit.

    Raises:
        PlanError: the first thing that does not fit.
    """
    found = {item.name: item for item in weighted_layers(adapted(model, plan.adapters))}
    named = [layer.name for layer in plan.layers] + [skip.name for skip in plan.skipped]
    _refuse_twice(named)
    missing = [name for name in named if name not in found]
    extra = [name for name in found if name not in set(named)]
    if missing or extra:
        fact = f"it names {missing[0]!r}, which is not there" if missing else f"it says nothing about {extra[0]!r}"
        more = len(missing) + len(extra) - 1
        raise PlanError(
            f"the plan is for another model{f' ({plan.model})' if plan.model else ''}: {fact}"
            f"{f', and {more} more layers differ' if more else ''}; make a plan for this one with `edgecompress plan`"
        )
    for layer_plan in plan.layers:
        _check_layer(found[layer_plan.name].layer, layer_plan, found[layer_plan.name].refused)
    if uses_codec(plan):
        _check_one_codec(plan.layers)


def replaced(plan: CompressionPlan) -> list[str]:
    """The layers in whose place the plan puts chains."""
    return [layer.name for layer in plan.layers if layer.method in DECOMPOSITIONS]


def refuse_noticed(reasons: Mapping[str, str]) -> None:
    """Refuse to replace layers that the model looks at; ``reasons`` by name.

    Raises:
        PlanError: there are any; it names the first.
    """
    for name, reason in reasons.items():
        raise PlanError(f"{name}: {reason}; leave it dense, as `edgecompress plan` does")


def uses_codec(plan: CompressionPlan) -> bool:
    """Does the plan store weights as factors, rather than replace layers by chains?"""
    return any(layer.method in CODECS for layer in plan.layers)


def _check_one_codec(layers: Sequence[LayerPlan]) -> None:
    first = layers[0]
    for other in layers[1:]:
        if other.method != first.method:
            raise PlanError(
                f"{other.name}: {other.method} beside {first.method} of {first.name}; all layers of a plan with a "
                "codec use that codec"
            )
        if CODECS[first.method].shared and other.ranks != first.ranks:
            raise PlanError(
                f"{other.name}: ranks {other.ranks} beside {first.ranks} of {first.name}; {first.method} has one core, "
                "so all layers need the same order and ranks"
            )


def _refuse_twice(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise PlanError(f"{twice[0]}: named twice in the plan; keep one entry a layer")


def _check_layer(layer: nn.Module, plan: LayerPlan, refused: str) -> None:
    if refused:
        raise PlanError(f"{plan.name}: {refused}")
    method = DECOMPOSITIONS.get(plan.method) or CODECS.get(plan.method)
    if method is None:
        raise PlanError(f"{plan.name}: no method {plan.method!r}; there are {', '.join((*DECOMPOSITIONS, *CODECS))}")
    support = method.supports(layer)
    if not support:
        raise PlanError(f"{plan.name}: {plan.method} cannot replace it: {support.reason}")
    shape = tuple(weight_of(layer).shape)
    if plan.shape != shape:
        raise PlanError(f"{plan.name}: its weight is {shape}, the plan was made for {plan.shape}: another model?")
    if isinstance(method, Codec):
        _check_core(plan, shared=method.shared)
    else:
        _check_ranks(method, layer, plan)


def _check_core(plan: LayerPlan, *, shared: bool) -> None:
    """Sizes that hold the weight, and a core that is no larger, except where other layers use it too."""
    if len(plan.ranks) not in ORDERS or (plan.dims and len(plan.dims) != len(plan.ranks)):
        raise PlanError(f"{plan.name}: ranks {plan.ranks}, sizes {plan.dims or 'balanced'}: orders are 3 to 5")
    dims = dims_of(plan)
    if prod(dims) < prod(plan.shape) or min(dims) < 1:
        raise PlanError(f"{plan.name}: sizes {dims} hold fewer numbers than its weight {plan.shape}")
    too_large = not shared and any(rank > most for rank, most in zip(plan.ranks, dims, strict=True))
    if min(plan.ranks) < 1 or too_large:
        raise PlanError(f"{plan.name}: ranks {plan.ranks} outside 1..{'any' if shared else dims} of {plan.method}")


def _check_ranks(method: Decomposition, layer: nn.Module, plan: LayerPlan) -> None:
    largest = method.max_ranks(layer)
    fits = len(plan.ranks) == len(largest) and all(1 <= r <= most for r, most in zip(plan.ranks, largest, strict=True))
    if not fits:
        first = "(" + ", ".join("1" for _ in largest) + ")"
        raise PlanError(f"{plan.name}: ranks {plan.ranks} outside {first}..{largest} of {plan.method}")


def replacement(layer: nn.Module, plan: LayerPlan, *, fill: bool = True) -> nn.Sequential:
    """The chain for one layer, in its dtype, device, mode and ``requires_grad``."""
    method = DECOMPOSITIONS[plan.method]
    chain = method.chain(layer, plan.ranks)
    if fill:
        fill_from(chain, layer, plan)
    trained = {name: parameter.requires_grad for name, parameter in layer.named_parameters()}
    for name, parameter in chain.named_parameters():
        parameter.requires_grad_(trained[name.rpartition(".")[2]])
    return with_geometry(chain, layer).train(layer.training)


def fill_from(chain: nn.Module, layer: nn.Module, plan: LayerPlan) -> None:
    """Fill ``chain`` with the factors of the layer's weight, and its bias.

    Raises:
        PlanError: the weight is not finite or all zeros, or has no factors of this method.
    """
    refuse_unusable(plan.name, weight_of(layer).detach())
    try:
        fill(chain, plan, fitted(DECOMPOSITIONS[plan.method], plan.ranks, kernels(layer))[0])
    except NUMERICAL as error:
        raise PlanError(
            f"{plan.name}: {plan.method} finds no factors of its weight ({first_line(error)}); use another method, or "
            "leave it dense"
        ) from error
    last = chain.get_submodule(DECOMPOSITIONS[plan.method].links[-1])
    bias = getattr(layer, "bias", None)
    if isinstance(bias, Tensor):
        assert isinstance(last.bias, Tensor)
        last.bias.data.copy_(bias.detach())


def fitted(
    method: Decomposition,
    ranks: Ranks,
    of_groups: Tensor,
    moments: Tensor | Sequence[Sketch] | None = None,
    metric: Metric | None = None,
) -> tuple[Factors, Tensor]:
    """Each link's kernels (groups, ...) for the kernels (groups, T, C, *taps) of a layer, and those they stand for.

    ``moments`` (groups, D, D) are of the layer's inputs, ``metric`` says what an error of its outputs costs.
    A group of zeros has factors of zeros.

    Raises:
        LinAlgError, ArithmeticError: the numbers have no answer.
    """
    each = []
    for group, kernel in enumerate(of_groups.cpu()):
        own = None if moments is None or not bool(kernel.any()) else moments[group]
        roots = None if metric is None or own is None else (metric.root[group], metric.inverse[group])
        each.append(_fitted(method, kernel, ranks, own, roots))
    if not all(bool(factor.isfinite().all()) for factors in each for factor in factors):
        raise FloatingPointError(f"the factors of {method.name} are not finite")
    return tuple(map(stacked, zip(*each, strict=True))), stacked([method.reconstruct(factors) for factors in each])


def _fitted(
    method: Decomposition, kernel: Tensor, ranks: Ranks, moments: Any, roots: tuple[Tensor, Tensor] | None
) -> Factors:
    """In the metric of the outputs: the last link's outputs are those of the layer, so it takes the metric's root."""
    if roots is None:
        return method.factors(kernel, ranks, moments)
    root, inverse = roots
    *first, last = method.factors(torch.einsum("ts,s...->t...", root.double(), kernel.double()), ranks, moments)
    return *first, torch.einsum("ts,s...->t...", inverse.to(last.dtype), last)


def fill(chain: nn.Module, plan: LayerPlan, factors: Factors) -> None:
    """Put the kernels of each link into the links of ``chain``."""
    for link, factor in zip(DECOMPOSITIONS[plan.method].links, factors, strict=True):
        layer = chain.get_submodule(link)
        weight = weight_of(layer)
        if is_hollow(weight):
            weight.data = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
        weight.data.copy_(weight_from(layer, factor))


def merged(chain: nn.Module, layer: nn.Module, plan: LayerPlan) -> nn.Module:
    """A copy of ``layer`` with the weight and bias that ``chain`` stands for: the way back."""
    method, groups = DECOMPOSITIONS[plan.method], groups_of(layer)
    links = [chain.get_submodule(link) for link in method.links]
    of_links = [kernels(link, groups).double() for link in links]
    whole = torch.stack([method.reconstruct(tuple(of_group)) for of_group in zip(*of_links, strict=True)])
    dense = copied(layer)
    weight_of(dense).data.copy_(weight_from(dense, whole))
    if isinstance(links[-1].bias, Tensor):
        assert isinstance(dense.bias, Tensor)
        dense.bias.data.copy_(links[-1].bias.detach())
    return dense


def merge_back(
    model: nn.Module, plan: CompressionPlan, dense: nn.Module, inputs: Inputs, patterns: Sequence[str]
) -> tuple[nn.Module, CompressionPlan]:
    """A copy of ``model`` in which the chains of the layers that match ``patterns`` are dense layers again.

    For a target on which a chain is slower than the layer it replaced: what it computes, it computes as before.

    Args:
        model: compressed by ``plan``; it stays as it is.
        plan: of ``model``.
        dense: the model that ``plan`` was made for.
        inputs: an example, batch first, to count the new cost with.
        patterns: of layer names, as in a shell: ``layer1.*``.

    Returns:
        The copy, and the plan without these layers.

    Raises:
        PlanError: a pattern matches no decomposed layer.
    """
    dense = adapted(dense, plan.adapters)
    chains = [layer.name for layer in plan.layers if layer.method in DECOMPOSITIONS]
    names = matching(chains, patterns, "decomposed layer")
    changed = copied(model)
    for layer_plan in plan.layers:
        if layer_plan.name in names:
            chain, layer = changed.get_submodule(layer_plan.name), dense.get_submodule(layer_plan.name)
            changed = put(changed, layer_plan.name, merged(chain, layer, layer_plan))
    order = [item.name for item in weighted_layers(dense)]
    skipped = (*plan.skipped, *(Skipped(name, "merged back into a dense layer") for name in names))
    return changed, replace(
        plan,
        layers=tuple(layer for layer in plan.layers if layer.name not in names),
        skipped=tuple(sorted(skipped, key=lambda skip: order.index(skip.name))),
        compressed=cost(changed, inputs),
    )


def matching(names: Sequence[str], patterns: Sequence[str], what: str) -> list[str]:
    """Those of ``names`` that match one of ``patterns``, as in a shell: ``layer1.*``.

    Raises:
        PlanError: a pattern matches none, which is a typing error; with the nearest names.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, 3, 0) or list(names[:3])
            there = f"the nearest names are {', '.join(near)}" if any(near) else f"the {what} is the model itself"
            raise PlanError(f"no {what} matches {pattern!r}; {there}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
