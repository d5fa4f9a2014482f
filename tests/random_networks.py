"""Small networks drawn at random, as people write them: one seed is one network, with inputs and strange weights.

``network(seed)`` is a function of its seed alone. Blocks are drawn one after the other and tried on the values that
reach them; one that does not fit (a kernel larger than its image) is drawn again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
DECONVS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
MAX_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish,
    nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Identity, nn.Dropout,
)  # fmt: skip
SIZES = {1: (14,), 2: (9, 10), 3: (4, 5, 5)}
MOST_CHANNELS = 24
VOCABULARY = 11


@dataclass(frozen=True)
class Network:
    """A model in eval mode, an example batch of its inputs, more of them to calibrate with, and what it is."""

    seed: int
    model: nn.Module
    inputs: tuple[Tensor, ...]
    calibration: tuple[Tensor, ...]
    strange: tuple[str, ...]


class Blocks(nn.Module):
    """Several branches of blocks, joined and followed by heads."""

    def __init__(self, branches: list[nn.Module], trunk: nn.Module, heads: list[nn.Module], form: str) -> None:
        super().__init__()
        self.branches, self.trunk, self.heads, self.form = nn.ModuleList(branches), trunk, nn.ModuleList(heads), form

    def forward(self, x: Tensor, other: Tensor | None = None) -> object:
        hidden = self.branches[0](x) if other is None else self.branches[0](x) + self.branches[1](other)
        outputs = [head(self.trunk(hidden)) for head in self.heads]
        return outputs[0] if self.form == "one" else outputs if self.form == "list" else tuple(outputs)


class AnyNumber(Blocks):
    """The same, taking any number of inputs."""

    def forward(self, *inputs: Tensor) -> object:
        return super().forward(*inputs)


class Residual(nn.Module):
    """x + f(x), or with a projection on the shortcut where the shapes differ; the sum in one of several spellings."""

    def __init__(self, inner: nn.Module, shortcut: nn.Module | None, spelling: int) -> None:
        super().__init__()
        self.inner, self.shortcut, self.spelling = inner, shortcut, spelling

    def forward(self, x: Tensor) -> Tensor:
        own, other = self.inner(x), x if self.shortcut is None else self.shortcut(x)
        if self.spelling == 0:
            return own + other
        if self.spelling == 1:
            own += other
            return own
        return F.relu(torch.add(other, own))


class Concat(nn.Module):
    """Branches side by side along the channels; the axis counted from either end."""

    def __init__(self, branches: list[nn.Module], axis: int) -> None:
        super().__init__()
        self.branches, self.axis = nn.ModuleList(branches), axis

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], self.axis)


class Twice(nn.Module):
    """One layer run twice."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


class Loop(nn.Module):
    """A ModuleList run in a loop."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class Named(nn.Module):
    """A dictionary of layers, one of them never run and one whose output nobody uses; the rest by keyword."""

    def __init__(self, used: nn.Module, unused: nn.Module, ignored: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"used": used, "unused": unused, "ignored": ignored})

    def forward(self, x: Tensor) -> Tensor:
        self.layers["ignored"](x)
        return self.layers["used"](input=x)


class Looking(nn.Module):
    """A layer at which the model looks, in one of the ways of ``LOOKS``."""

    def __init__(self, layer: nn.Module, look: str) -> None:
        super().__init__()
        self.layer, self.look = layer, look

    def forward(self, x: Tensor) -> Tensor:
        return LOOKS[self.look](self.layer, x)


LOOKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "weight": lambda layer, x: layer(x) * (1 + layer.weight.abs().mean()),
    "kind": lambda layer, x: layer(x) if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) else -layer(x),
    "type": lambda layer, x: layer(x) / (2 if type(layer) is nn.Sequential else 1),
    "dtype": lambda layer, x: layer(x.to(layer.weight.dtype)),
    "size": lambda layer, x: layer(x) * layer.weight.shape[0] ** -0.5,
    "bias": lambda layer, x: layer(x) if getattr(layer, "bias", None) is None else layer(x) - layer.bias.mean(),
    "children": lambda layer, x: layer(x) * (1 + len(list(layer.children()))),
    "parameters": lambda layer, x: layer(x) * sum(p.numel() for p in layer.parameters()) ** -0.5,
}


class Query(nn.Module):
    """A layer that is given numbers of the model's own, which have no batch."""

    def __init__(self, layer: nn.Module, query: Tensor) -> None:
        super().__init__()
        self.layer, self.query = layer, nn.Parameter(query)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.query) + x


class Sized(nn.Module):
    """A transposed convolution that is told the size of its output, on images; else the layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        images = isinstance(layer, nn.Conv2d)
        self.layer = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 3, 1, 1) if images else layer

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.ConvTranspose2d):
            return self.layer(x, output_size=list(x.shape[2:]))
        return self.layer(x)


class Functional(nn.Module):
    """A layer that is only a holder of weights."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, self.layer.weight, self.layer.bias)
        call = (F.conv1d, F.conv2d, F.conv3d)[x.dim() - 3]
        layer = self.layer
        return call(x, layer.weight, layer.bias, layer.stride, 0, layer.dilation, layer.groups)


class Gate(nn.Module):
    """Squeeze and excite: what the channels are on average scales them."""

    def __init__(self, channels: int, axes: int) -> None:
        super().__init__()
        self.down, self.up = CONVS[axes - 1](channels, 4, 1), CONVS[axes - 1](4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(tuple(range(2, x.dim())), keepdim=True)
        return x * torch.sigmoid(self.up(F.relu(self.down(mean))))


class Halves(nn.Module):
    """The channels in two halves, one of which a layer changes, interleaved again."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        joined = torch.stack((left, self.layer(right)), 2)
        return joined.flatten(1, 2)


class Attention(nn.Module):
    """Self-attention over positions (N, L, D)."""

    def __init__(self, width: int, heads: int, own: bool) -> None:
        super().__init__()
        self.heads = heads
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True) if own else None
        self.qkv, self.out = (None, None) if own else (nn.Linear(width, 3 * width), nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        if self.attention is not None:
            return x + self.attention(x, x, x, need_weights=False)[0]
        count, length, width = x.shape
        q, k, v = self.qkv(x).reshape(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(mixed.transpose(1, 2).reshape(count, length, width))


class Recurrent(nn.Module):
    """An LSTM or GRU over positions, of which the outputs are used."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


class Transposed(nn.Module):
    """A layer of channels (N, C, L) run on positions (N, L, C), or the other way round."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2)).transpose(1, 2)


class Mean(nn.Module):
    """The mean over all positions."""

    def __init__(self, axes: tuple[int, ...]) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes)


Draw = random.Random
Block = Callable[[Draw, Tensor], nn.Module]


def conv(draw: Draw, x: Tensor, channels: int = 0, *, plain: bool = False) -> nn.Module:
    """A convolution over all axes of ``x`` (N, C, ...); ``plain`` keeps the positions."""
    axes, own = x.dim() - 2, x.shape[1]
    channels = channels or draw.choice((6, 8, 12, 16, MOST_CHANNELS))
    if plain:
        kernel = draw.choice((1, 3))
        return CONVS[axes - 1](own, channels, kernel, padding=kernel // 2, bias=draw.random() < 0.7)
    kernel = tuple(draw.choice((1, 2, 3, 3, 5)) for _ in range(axes)) if draw.random() < 0.4 else draw.choice((1, 3, 3))
    groups = draw.choice([g for g in (1, 1, 1, 2, 3, 4, own) if own % g == 0 and channels % g == 0])
    padding = draw.choice((0, 1, 1, 2, "same", "valid"))
    stride = 1 if padding == "same" else draw.choice((1, 1, 2, 3))
    mode = draw.choice(("zeros",) * 5 + ("reflect", "replicate", "circular"))
    options = {"stride": stride, "padding": padding, "dilation": draw.choice((1, 1, 1, 2)), "groups": groups}
    return CONVS[axes - 1](own, channels, kernel, **options, bias=draw.random() < 0.6, padding_mode=mode)


def deconv(draw: Draw, x: Tensor) -> nn.Module:
    """A transposed convolution."""
    axes, own = x.dim() - 2, x.shape[1]
    channels, stride = draw.choice((6, 8, 12)), draw.choice((1, 2, 2))
    groups = draw.choice([g for g in (1, 1, 1, 2, own) if own % g == 0 and channels % g == 0])
    more = draw.choice((0, stride - 1))
    options = {"stride": stride, "padding": draw.choice((0, 1)), "output_padding": more, "groups": groups}
    return DECONVS[axes - 1](own, channels, draw.choice((2, 3, 4)), **options, bias=draw.random() < 0.6)


def norm(draw: Draw, x: Tensor) -> nn.Module:
    """A norm of channels or positions, with statistics as after training."""
    axes, own = x.dim() - 2, x.shape[1]
    kind = draw.choice(("batch", "batch", "batch", "group", "instance", "layer"))
    if kind == "group":
        return nn.GroupNorm(draw.choice([g for g in (1, 2, 4, own) if own % g == 0]), own)
    if kind == "instance":
        return INSTANCE_NORMS[axes - 1](own, affine=draw.random() < 0.5, track_running_stats=draw.random() < 0.3)
    if kind == "layer":
        return nn.LayerNorm(x.shape[1:] if draw.random() < 0.5 else x.shape[-1:])
    return BATCH_NORMS[axes - 1](own, affine=draw.random() < 0.8)


def activation(draw: Draw, _x: Tensor) -> nn.Module:
    """Any of the usual ones."""
    return draw.choice(ACTIVATIONS)()


def pool(draw: Draw, x: Tensor) -> nn.Module:
    """Fewer positions, or more."""
    axes = x.dim() - 2
    if draw.random() < 0.2:
        return nn.Upsample(scale_factor=2, mode="nearest")
    kinds = draw.choice((MAX_POOLS, AVERAGE_POOLS))
    return kinds[axes - 1](draw.choice((2, 3)), stride=draw.choice((1, 2)))


def conv_block(draw: Draw, x: Tensor) -> nn.Module:
    """Convolution, norm and activation in the usual order, as one nested Sequential."""
    first = conv(draw, x)
    second = norm(draw, first(x))
    return nn.Sequential(nn.Sequential(first, second), activation(draw, x))


def depthwise(draw: Draw, x: Tensor) -> nn.Module:
    """Depthwise, then pointwise, with names."""
    axes, own = x.dim() - 2, x.shape[1]
    block = nn.Sequential()
    block.add_module("depthwise", CONVS[axes - 1](own, own, 3, padding=1, groups=own, bias=False))
    block.add_module("norm", BATCH_NORMS[axes - 1](own))
    block.add_module("pointwise", CONVS[axes - 1](own, draw.choice((8, 16, 20)), 1))
    return block


def same_shape(draw: Draw, x: Tensor) -> nn.Module:
    """Some layers that keep the shape."""
    middle = draw.choice((6, 8, 16))
    first = conv(draw, x, middle, plain=True)
    layers = [first, activation(draw, x), conv(draw, first(x), x.shape[1], plain=True)]
    if draw.random() < 0.6:
        layers.append(BATCH_NORMS[x.dim() - 3](x.shape[1]))
    return nn.Sequential(*layers)


def residual(draw: Draw, x: Tensor) -> nn.Module:
    """A residual block; in some the shortcut is projected."""
    if draw.random() < 0.6:
        return Residual(same_shape(draw, x), None, draw.randrange(3))
    channels, stride, axes = draw.choice((8, 16)), draw.choice((1, 2)), x.dim() - 2
    norms = [BATCH_NORMS[axes - 1](channels) for _ in range(3)]
    first = CONVS[axes - 1](x.shape[1], channels, 3, stride, 1, bias=False)
    second = CONVS[axes - 1](channels, channels, 3, 1, 1, bias=False)
    inner = nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1])
    shortcut = nn.Sequential(CONVS[axes - 1](x.shape[1], channels, 1, stride, bias=False), norms[2])
    return Residual(inner, shortcut, draw.randrange(3))


def concat(draw: Draw, x: Tensor) -> nn.Module:
    """Two or three convolutions side by side."""
    branches = [conv(draw, x, 8, plain=True) for _ in range(draw.choice((2, 3)))]
    return Concat([*branches, *([nn.Identity()] if draw.random() < 0.3 else [])], draw.choice((1, 1 - x.dim())))


def _linear(draw: Draw, x: Tensor, *, same: bool = False) -> nn.Linear:
    return nn.Linear(x.shape[-1], x.shape[-1] if same else draw.choice((8, 12, 20, 32)), bias=draw.random() < 0.7)


def odd(draw: Draw, x: Tensor) -> nn.Module:
    """Something that people do with layers and tools forget."""
    return draw.choice(ODD)(draw, x, _keeping(draw, x), _keeping(draw, x))


def _keeping(draw: Draw, x: Tensor) -> nn.Module:
    """A layer that keeps the shape."""
    return _linear(draw, x, same=True) if x.dim() < 4 else conv(draw, x, x.shape[1], plain=True)


def _tied(_draw: Draw, _x: Tensor, layer: nn.Module, again: nn.Module) -> nn.Module:
    if again.weight.shape == layer.weight.shape:
        again.weight = layer.weight
    return Loop([layer, nn.ReLU(), again])


def _frozen(_draw: Draw, _x: Tensor, layer: nn.Module, again: nn.Module) -> nn.Module:
    return nn.Sequential(layer.requires_grad_(requires_grad=False), again)


def _queried(_draw: Draw, x: Tensor, layer: nn.Module, _again: nn.Module) -> nn.Module:
    return Query(layer, torch.randn(1, *x.shape[1:]))


ODD: tuple[Callable[[Draw, Tensor, nn.Module, nn.Module], nn.Module], ...] = (
    lambda _draw, _x, layer, _again: Twice(layer),
    lambda _draw, _x, layer, again: Loop([layer, nn.PReLU(), again]),
    lambda draw, x, layer, again: Named(layer, again, _linear(draw, x)),
    lambda draw, _x, layer, _again: Looking(layer, draw.choice(tuple(LOOKS))),
    lambda draw, _x, layer, _again: Looking(layer, draw.choice(tuple(LOOKS))),
    lambda _draw, _x, layer, _again: Functional(layer),
    lambda _draw, _x, layer, again: nn.Sequential(nn.utils.parametrizations.weight_norm(layer), again),
    lambda _draw, _x, layer, again: nn.Sequential(nn.utils.parametrizations.spectral_norm(layer).eval(), again),
    lambda _draw, _x, layer, _again: nn.Sequential(layer, nn.Tanh(), layer),
    lambda _draw, _x, layer, _again: Sized(layer),
    _tied,
    _frozen,
    _queried,
)


def gate(_draw: Draw, x: Tensor) -> nn.Module:
    """Squeeze and excite."""
    return Gate(x.shape[1], x.dim() - 2)


def halves(draw: Draw, x: Tensor) -> nn.Module:
    """A shuffle of channels."""
    half = x.chunk(2, 1)[1]
    return Halves(conv(draw, half, half.shape[1], plain=True))


def vector_block(draw: Draw, x: Tensor) -> nn.Module:
    """Linear, a norm of the last axis, an activation."""
    layer = _linear(draw, x)
    norms = (nn.Identity(), nn.LayerNorm(layer.out_features), *([nn.BatchNorm1d(layer.out_features)] * (x.dim() == 2)))
    return nn.Sequential(layer, draw.choice(norms), activation(draw, x))


def vector_residual(draw: Draw, x: Tensor) -> nn.Module:
    """A feed-forward block with its sum."""
    wide = nn.Linear(x.shape[-1], 2 * x.shape[-1])
    return Residual(nn.Sequential(wide, nn.GELU(), nn.Linear(2 * x.shape[-1], x.shape[-1])), None, draw.randrange(2))


def attention(draw: Draw, x: Tensor) -> nn.Module:
    """Attention over the positions."""
    width = x.shape[-1]
    return Attention(width, draw.choice([h for h in (1, 2, 4) if width % h == 0]), draw.random() < 0.4)


def recurrent(draw: Draw, x: Tensor) -> nn.Module:
    """A recurrent layer over the positions."""
    kind, both = draw.choice((nn.LSTM, nn.GRU)), draw.random() < 0.3
    return Recurrent(kind(x.shape[-1], 8, batch_first=True, bidirectional=both))


def transposed(draw: Draw, x: Tensor) -> nn.Module:
    """A convolution over positions."""
    return Transposed(conv(draw, x.transpose(1, 2), plain=True))


def encoder(draw: Draw, x: Tensor) -> nn.Module:
    """PyTorch's own transformer layer."""
    heads = draw.choice([h for h in (1, 2) if x.shape[-1] % h == 0])
    return nn.TransformerEncoderLayer(x.shape[-1], heads, 24, batch_first=True, norm_first=draw.random() < 0.5)


MAPS: tuple[Block, ...] = (
    conv, conv_block, conv_block, conv_block, deconv, depthwise, residual, residual, concat, odd, odd, gate, halves,
    pool, norm, activation,
)  # fmt: skip
SEQUENCES: tuple[Block, ...] = (
    vector_block, vector_block, vector_residual, attention, recurrent, transposed, odd, odd, encoder, activation,
)  # fmt: skip
VECTORS: tuple[Block, ...] = (vector_block, vector_block, vector_residual, odd, activation)


def stack(draw: Draw, x: Tensor, blocks: tuple[Block, ...], count: int) -> tuple[nn.Sequential, Tensor]:
    """``count`` blocks that fit one after the other, and what they give."""
    layers: list[nn.Module] = []
    while len(layers) < count:
        try:
            layer = draw.choice(blocks)(draw, x).eval()
            given = layer(x)
        except (RuntimeError, ValueError, IndexError):
            continue
        if x.dim() == given.dim() and 0 < given[0].numel() <= 6000 and max(given.shape[1:]) <= 64:
            layers.append(layer)
            x = given.detach()
    return nn.Sequential(*layers), x


def start(draw: Draw, kind: str, batch: int) -> Tensor:
    """An input of a kind: ``tokens``, ``vector``, ``sequence``, or the number of axes of a map."""
    if kind == "tokens":
        return torch.randint(0, VOCABULARY, (batch, 7))
    if kind == "vector":
        return torch.randn(batch, 18)
    if kind == "sequence":
        return torch.randn(batch, 6, 12)
    return torch.randn(batch, draw.choice((1, 3, 4, 8)), *SIZES[int(kind)])


def _blocks(kind: str) -> tuple[Block, ...]:
    return {"tokens": SEQUENCES, "sequence": SEQUENCES, "vector": VECTORS}.get(kind, MAPS)


def to_vector(draw: Draw, x: Tensor, width: int) -> nn.Module:
    """Whatever ``x`` is as ``width`` numbers."""
    if x.dim() == 2:
        return nn.Linear(x.shape[1], width)
    if x.dim() == 3 and draw.random() < 0.4:
        return nn.Sequential(Mean((1,)), nn.Linear(x.shape[2], width))
    if draw.random() < 0.5 and x[0].numel() <= 600:
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), width))
    return nn.Sequential(Mean(tuple(range(2, x.dim()))), nn.Linear(x.shape[1], width))


def branch(draw: Draw, kind: str, x: Tensor, width: int) -> nn.Module:
    """From one input to ``width`` numbers."""
    layers: list[nn.Module] = []
    if kind == "tokens":
        layers.append(nn.Embedding(VOCABULARY, 12))
        x = layers[0](x).detach()
    body, given = stack(draw, x, _blocks(kind), draw.choice((1, 2, 3, 4)))
    return nn.Sequential(*layers, body, to_vector(draw, given, width))


def network(seed: int, calibration: int = 16) -> Network:
    """The network of this seed, an example batch of three, and ``calibration`` inputs."""
    draw = random.Random(seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return _network(draw, seed, calibration)


def _network(draw: Draw, seed: int, calibration: int) -> Network:
    kinds = [draw.choice(("2", "2", "2", "1", "1", "3", "vector", "sequence", "tokens"))]
    if draw.random() < 0.2:
        kinds.append(draw.choice(("vector", "2", "tokens")))
    starts = [start(draw, kind, 3) for kind in kinds]
    if len(kinds) == 1 and draw.random() < 0.5:
        x = starts[0]
        prelude = [nn.Embedding(VOCABULARY, 12)] if kinds[0] == "tokens" else []
        given = prelude[0](x).detach() if prelude else x
        body, _ = stack(draw, given, _blocks(kinds[0]), draw.choice((2, 3, 4, 5)))
        model: nn.Module = nn.Sequential(*prelude, *body)
    else:
        width = draw.choice((8, 16))
        branches = [branch(draw, kind, x, width) for kind, x in zip(kinds, starts, strict=True)]
        trunk, hidden = stack(draw, torch.randn(3, width), VECTORS, draw.choice((1, 2)))
        heads = [nn.Linear(hidden.shape[1], draw.choice((1, 3, 10))) for _ in range(draw.choice((1, 1, 2)))]
        kind = draw.choice((Blocks, Blocks, Blocks, AnyNumber))
        model = kind(branches, trunk, heads, draw.choice(("one", "one", "tuple", "list")))
    model.eval()
    _trained(model)
    strange = tuple(_strange(draw, model))
    inputs = tuple(given.clone() for given in starts)
    more = tuple(_calibrating(draw, kind, x, calibration) for kind, x in zip(kinds, starts, strict=True))
    return Network(seed, model, inputs, more, strange)


def _trained(model: nn.Module) -> None:
    """Norms with statistics and scales as if they had been trained."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._NormBase) and layer.running_mean is not None:
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.5, 2)
        if isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm) and layer.weight is not None:
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.3)


def _calibrating(draw: Draw, kind: str, x: Tensor, count: int) -> Tensor:
    """Inputs to calibrate with; some do not vary, or not everywhere."""
    more = torch.cat([start(draw, "tokens", count)]) if kind == "tokens" else torch.randn(count, *x.shape[1:])
    how = draw.random()
    if how < 0.05:
        more[:] = more[:1]
    elif how < 0.1 and kind != "tokens":
        more[:, 0] = 0
    elif how < 0.15 and kind != "tokens":
        more *= 1000
    return more


def _strange(draw: Draw, model: nn.Module) -> list[str]:
    """Make some weights strange; says which."""
    made = []
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd) or not isinstance(layer.weight, nn.Parameter):
            continue
        if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear) or draw.random() > 0.15:
            continue
        kind = draw.choice(tuple(STRANGE))
        with torch.no_grad():
            STRANGE[kind](draw, layer)
        made.append(f"{name}: {kind}")
    return made


def _scaled(factor: float, _draw: Draw, layer: nn.Module) -> None:
    layer.weight.mul_(factor)


def _zeros(_draw: Draw, layer: nn.Module) -> None:
    layer.weight.zero_()


def _zero_channels(draw: Draw, layer: nn.Module) -> None:
    axis = draw.randrange(2)
    layer.weight.narrow(axis, 0, max(1, layer.weight.shape[axis] // 2)).zero_()


def _rank_one(_draw: Draw, layer: nn.Module) -> None:
    flat = layer.weight.flatten(1)
    layer.weight.copy_((flat[:, :1] * flat[:1] / flat[:1].norm().clamp_min(1e-3)).reshape(layer.weight.shape))


def _repeated(_draw: Draw, layer: nn.Module) -> None:
    layer.weight.copy_(layer.weight[:1].expand_as(layer.weight).clone())


def _dead(_draw: Draw, layer: nn.Module) -> None:
    if layer.bias is not None:
        layer.bias.fill_(-1000)


def _constant(_draw: Draw, layer: nn.Module) -> None:
    layer.weight.fill_(0.1)


def _loud(_draw: Draw, layer: nn.Module) -> None:
    layer.weight[0] *= 1000


def _strided(_draw: Draw, layer: nn.Module) -> None:
    axes = tuple(reversed(range(layer.weight.dim())))
    layer.weight.data = layer.weight.permute(axes).contiguous().permute(axes)


def _channels_last(_draw: Draw, layer: nn.Module) -> None:
    if layer.weight.dim() == 4:
        layer.weight.data = layer.weight.contiguous(memory_format=torch.channels_last)


STRANGE: dict[str, Callable[[Draw, nn.Module], None]] = {
    "zeros": _zeros,
    "zero channels": _zero_channels,
    "huge": partial(_scaled, 1e4),
    "tiny": partial(_scaled, 1e-6),
    "vanishing": partial(_scaled, 1e-30),
    "rank one": _rank_one,
    "repeated": _repeated,
    "dead": _dead,
    "constant": _constant,
    "loud": _loud,
    "strided": _strided,
    "channels last": _channels_last,
}
