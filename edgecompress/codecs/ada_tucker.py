"""ADA-Tucker and SCADA-Tucker: a weight kept as core and matrices of a reshaped, dimension-balanced tensor.

After Zhong, Wei, Lin & Zhang, "ADA-Tucker: Compressing deep neural networks via adaptive dimension adjustment Tucker
decomposition" (Neural Networks 110, 2019; arXiv 1906.07671), of which the abstract is public: a weight is reshaped to
order 3 to 5 with balanced sizes, its Tucker core and matrices are learned, and in SCADA-Tucker all layers share one
core. Sizes, ranks and schedules are ours. It is a way to *store* a weight: the layer runs as before, with its MACs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgecompress.codecs.dimensions import Dims, balanced
from edgecompress.codecs.rounding import Rounding
from edgecompress.codecs.tucker import contracted, hosvd, padded, shared_tucker, unit_sized
from edgecompress.decompositions.base import SUPPORTED, Support
from edgecompress.decompositions.kernels import weight_of
from edgecompress.layers import refuse_unusable
from edgecompress.models import copied
from edgecompress.plans import LayerPlan, Ranks

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d)
GAIN = 2.0
"""Of fresh weights: variance GAIN / inputs of an output, as He et al. 2015 for ReLU."""


@dataclass(frozen=True, slots=True)
class Codec:
    """A way to keep weights in fewer numbers; ``shared``: all layers that use it have one core."""

    name: str
    summary: str
    shared: bool

    def supports(self, layer: nn.Module) -> Support:
        """Can this codec keep the weight of ``layer``? If not, the reason in words."""
        if type(layer) in KINDS:
            return SUPPORTED
        return Support(f"{type(layer).__name__}: only {', '.join(kind.__name__ for kind in KINDS)} are stored as codes")


class TuckerWeight(nn.Module):
    """Parametrization of a weight: ``scale * core x_1 matrix_1 ... x_n matrix_n``, reshaped, its padding cut off.

    ``forward`` takes the core (r1, ..., rn) and matrices (d_i, r_i), each rounded first where ``roundings`` are set.
    ``largest`` are the largest codes of the core, the matrices and the bias where the factors are codes, whole numbers.
    """

    scale: Tensor
    largest: tuple[int, int, int] | None = None

    def __init__(self, shape: tuple[int, ...], dims: Dims, ranks: Ranks, *, fill: bool) -> None:
        super().__init__()
        self.shape, self.dims, self.ranks, self.fill = shape, dims, ranks, fill
        self.register_buffer("scale", torch.tensor(1.0))
        self.roundings = nn.ModuleList()

    def forward(self, core: Tensor, *matrices: Tensor) -> Tensor:
        """The weight."""
        factors: Sequence[Tensor] = (core, *matrices)
        with torch.autocast(core.device.type, enabled=False):  # codes are multiplied out exactly
            if len(self.roundings):
                factors = [rounding(factor) for rounding, factor in zip(self.roundings, factors, strict=True)]
            flat = contracted(*factors).flatten()
            return self.scale * flat[: prod(self.shape)].view(self.shape)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Factors of a weight by HOSVD, each with a mean square of one, or zeros for others to fill."""
        if not self.fill:
            sizes = [self.ranks, *zip(self.dims, self.ranks, strict=True)]
            return tuple(weight.new_zeros(size) for size in sizes)
        factors, scale = unit_sized(hosvd(padded(weight.detach(), self.dims), self.ranks))
        self.scale.fill_(scale)
        return factors


def dims_of(layer: LayerPlan) -> Dims:
    """The sizes a planned weight is reshaped to: the plan's, or the most balanced ones, whatever its axes."""
    return layer.dims or balanced((prod(layer.shape),), len(layer.ranks))


def stored_params(layers: Sequence[LayerPlan], *, shared: bool) -> int:
    """Numbers in the factors of planned layers, a shared core once."""
    matrices = sum(d * r for layer in layers for d, r in zip(dims_of(layer), layer.ranks, strict=True))
    return matrices + sum(prod(layer.ranks) for layer in (layers[:1] if shared else layers))


def install(model: nn.Module, layers: Sequence[LayerPlan], *, shared: bool, fill: bool = True) -> None:
    """Let the weights of planned layers of ``model`` be computed from factors, in place.

    With ``fill`` the factors are those of the weights: by HOSVD, a shared core by alternating least squares.

    Raises:
        PlanError: a weight is not finite or all zeros.
    """
    weights = {}
    for plan in layers:
        layer = model.get_submodule(plan.name)
        weights[plan.name] = padded(weight_of(layer).detach(), dims_of(plan))
        if fill:
            refuse_unusable(plan.name, weights[plan.name])
        trained = weight_of(layer).requires_grad
        factors = TuckerWeight(plan.shape, dims_of(plan), plan.ranks, fill=fill and not shared)
        parametrize.register_parametrization(layer, "weight", factors)
        for parameter in factors_of(layer):
            parameter.requires_grad_(trained)
    if shared:
        _share(model, layers)
    if shared and fill:
        _fit_shared(model, weights, layers[0].ranks)


def _share(model: nn.Module, layers: Sequence[LayerPlan]) -> None:
    core = factors_of(model.get_submodule(layers[0].name))[0]
    for plan in layers[1:]:
        parametrized(model.get_submodule(plan.name), "weight").original0 = core


def _fit_shared(model: nn.Module, weights: Mapping[str, Tensor], ranks: Ranks) -> None:
    """Fill the layers named in ``weights`` from those."""
    core, fitted = shared_tucker(list(weights.values()), ranks)
    for name, matrices in zip(weights, fitted, strict=True):
        factors, scale = unit_sized((core, *matrices))
        put_factors(model.get_submodule(name), factors, scale)


@torch.no_grad()
def put_factors(layer: nn.Module, factors: Sequence[Tensor], scale: float) -> TuckerWeight:
    """Give a layer whose weight is computed from factors other ones; returns what computes it."""
    for place, factor in zip(factors_of(layer), factors, strict=True):
        place.copy_(factor.view(place.shape))
    weight = parametrized(layer, "weight")[0]
    assert isinstance(weight, TuckerWeight)
    weight.scale.fill_(scale)
    return weight


def stored_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module, TuckerWeight]]:
    """Name, layer and parametrization of every layer whose weight is computed from factors."""
    for name, layer in model.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            first = parametrized(layer, "weight")[0]
            if isinstance(first, TuckerWeight):
                yield name, layer, first


def factors_of(layer: nn.Module) -> tuple[nn.Parameter, ...]:
    """Core and matrices of a layer whose weight is computed from them."""
    kept = parametrized(layer, "weight")
    return tuple(getattr(kept, f"original{at}") for at in range(kept.ntensors))


def parametrized(layer: nn.Module, name: str) -> parametrize.ParametrizationList:
    """What the parameter ``name`` of a layer is computed from, and how."""
    kept: Any = layer.parametrizations
    of: parametrize.ParametrizationList = kept[name]
    return of


@torch.no_grad()
def refresh(model: nn.Module, seed: int) -> None:
    """Fresh factors for training from scratch, standard normal; the scale gives every weight its He variance.

    The variance of a weight is scale^2 times the product of the ranks. Other parameters stay.
    """
    generator, done = torch.Generator().manual_seed(seed), set()
    for _, layer, weight in stored_layers(model):
        for factor in factors_of(layer):
            if id(factor) not in done:
                factor.normal_(generator=generator)
                done.add(id(factor))
        weight.scale.fill_(sqrt(GAIN / prod(weight.shape[1:]) / prod(weight.ranks)))


def baked(model: nn.Module) -> nn.Module:
    """``model`` itself with weights and biases of their own in place of those computed from factors."""
    for _, layer, _ in list(stored_layers(model)):
        _bake(layer)
    return model


def _bake(layer: nn.Module) -> None:
    """PyTorch's own ``remove_parametrizations`` would change the class, which copies of the layer share."""
    kept: Any = layer.parametrizations
    values = {name: getattr(layer, name).detach() for name in kept}
    del layer.parametrizations
    layer.__class__ = type(layer).__bases__[0]
    for name, value in values.items():
        layer.register_parameter(name, nn.Parameter(value))


def materialized(model: nn.Module) -> nn.Module:
    """``model``, or a copy with weights of its own where some are computed from factors."""
    return baked(copied(model)) if any(stored_layers(model)) else model


def attach_roundings(model: nn.Module, core_levels: int, levels: int) -> None:
    """Round the factors of every stored layer from now on, in place; a shared core has one rounding."""
    cores: dict[int, Rounding] = {}
    for _, layer, weight in stored_layers(model):
        core, *matrices = factors_of(layer)
        rounding = cores.setdefault(id(core), Rounding(core_levels, core))
        weight.roundings.extend([rounding, *(Rounding(levels, matrix) for matrix in matrices)])


def rounded_factors(model: nn.Module) -> list[tuple[Rounding, Tensor]]:
    """Every rounding with the factor it rounds, a shared core's once."""
    found: dict[int, tuple[Rounding, Tensor]] = {}
    for _, layer, weight in stored_layers(model):
        for rounding, factor in zip(weight.roundings, factors_of(layer), strict=True):
            assert isinstance(rounding, Rounding)
            found[id(factor)] = rounding, factor
    return list(found.values())


ADA_TUCKER = Codec(
    name="ada_tucker",
    summary="stores a balanced reshape as Tucker core and matrices; after Zhong et al. 2019",
    shared=False,
)
SCADA_TUCKER = Codec(
    name="scada_tucker", summary="the same with one core for all layers; after Zhong et al. 2019", shared=True
)
