"""Layers of every geometry that laws are about: kind, channels and options, the layer and an input for it."""

import random
from collections import defaultdict
from itertools import product

import pytest
import torch
from torch import nn

STRIDES = (1, 2, (2, 1))
PADDINGS = (0, 1, (2, 1), "same", "valid")
MODES = ("zeros", "reflect", "replicate", "circular")
DILATIONS = (1, 2, (1, 2))
KERNELS = (1, 3, (5, 3), (1, 7))
CHANNELS = ((3, 8), (8, 3), (1, 6), (5, 5))

GROUPED = (((6, 8), 2), ((9, 6), 3), ((4, 4), 2))
INPUTS = {
    "Linear": (4,),
    "Linear3d": (2, 5),
    "Conv1d": (2, 13),
    "Conv2d": (2, 11, 13),
    "Conv3d": (2, 5, 7, 6),
    "ConvTranspose1d": (2, 7),
    "ConvTranspose2d": (2, 5, 6),
}
"""Batch and positions, or batch, height and width; the channels are put in by ``input_for``."""


def geometries():  # noqa: C901 - one loop a kind of layer
    """Each is (kind, channels, options). Every combination of stride, padding, mode and dilation, and every one of
    kernel, channels and bias, both with the rest drawn at random."""
    draw = random.Random(0).choice
    for channels, bias in product(CHANNELS, (True, False)):
        yield "Linear", channels, {"bias": bias}
        yield "Linear3d", channels, {"bias": bias}
    for stride, padding, mode, dilation in product((1, 2), (0, 1, "same", "valid"), MODES, (1, 2)):
        options = {"stride": stride, "padding": padding, "padding_mode": mode, "dilation": dilation}
        yield "Conv1d", draw(CHANNELS), {"kernel_size": draw((1, 3, 5)), **options, "bias": draw((True, False))}
    for stride, padding, mode, dilation in product(STRIDES, PADDINGS, MODES, DILATIONS):
        options = {"stride": stride, "padding": padding, "padding_mode": mode, "dilation": dilation}
        yield "Conv2d", draw(CHANNELS), {"kernel_size": draw(KERNELS), **options, "bias": draw((True, False))}
    for kernel, channels, bias in product(KERNELS, CHANNELS, (True, False)):
        options = {"stride": 1, "padding": draw(PADDINGS), "padding_mode": draw(MODES), "dilation": draw(DILATIONS)}
        yield "Conv2d", channels, {"kernel_size": kernel, **options, "bias": bias}
    for kernel, (channels, groups), bias in product(KERNELS, GROUPED, (True, False)):
        options = {"stride": 1, "padding": draw(PADDINGS), "padding_mode": draw(MODES), "dilation": draw(DILATIONS)}
        yield "Conv2d", channels, {"kernel_size": kernel, **options, "groups": groups, "bias": bias}
    for stride, padding, mode in product((1, 2, (1, 2, 1)), (0, (1, 0, 2), "same"), MODES):
        channels, groups = draw(((CHANNELS[0], 1), (CHANNELS[1], 1), GROUPED[0]))
        options = {"stride": stride, "padding": padding, "padding_mode": mode, "dilation": draw((1, (1, 2, 1)))}
        extra = {"groups": groups} if groups > 1 else {}
        yield "Conv3d", channels, {"kernel_size": draw((1, (3, 1, 2), (2, 3, 3))), **options, **extra}
    for channels, groups in GROUPED:
        yield "Conv1d", channels, {"kernel_size": draw((1, 3, 5)), "groups": groups, "stride": draw((1, 2))}
    for stride, padding, dilation, groups in product(STRIDES, (0, 1, (2, 1)), DILATIONS, (1, 2)):
        channels = draw(CHANNELS) if groups == 1 else (6, 8)
        options = {"kernel_size": draw((3, (5, 3), (1, 7))), "stride": stride, "padding": padding}
        extra = {"output_padding": draw((0, 1)) if stride == 2 else 0, "bias": draw((True, False))}
        yield "ConvTranspose2d", channels, {**options, "dilation": dilation, "groups": groups, **extra}
    for stride, (channels, groups) in product((1, 2), (*GROUPED, ((3, 8), 1))):
        yield "ConvTranspose1d", channels, {"kernel_size": draw((1, 4)), "stride": stride, "groups": groups}


def exists(geometry):
    """PyTorch has no strided convolution with ``padding="same"``."""
    options = geometry[2]
    return options.get("padding") != "same" or options["stride"] == 1


def build(geometry, dtype=torch.float64):
    kind, channels, options = geometry
    torch.manual_seed(0)
    layer = nn.Linear if kind.startswith("Linear") else getattr(nn, kind)
    return layer(*channels, **options, dtype=dtype)


def input_for(geometry, dtype=torch.float64):
    (kind, (channels, _), _), (batch, *positions) = geometry, INPUTS[geometry[0]]
    shape = (batch, *positions, channels) if kind.startswith("Linear") else (batch, channels, *positions)
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


def label(geometry):
    kind, (channels_in, channels_out), options = geometry
    return " ".join([kind, f"{channels_in}->{channels_out}", *(f"{k}={v}" for k, v in options.items())])


GEOMETRIES = list(filter(exists, geometries()))


def groups():
    """By kind, stride and padding mode: a test costs more than most laws of one layer."""
    found = defaultdict(list)
    for geometry in GEOMETRIES:
        kind, _, options = geometry
        own = (f"{option}={options[option]}" for option in ("stride", "padding_mode") if option in options)
        found[" ".join([kind, *own])].append(geometry)
    return found


def everywhere(law):
    """A test of each group, of a law of a geometry; one that breaks it is named. The fast suite takes every second."""
    others = {f"{name}, others": group[1::2] for name, group in groups().items() if group[1::2]}
    slow = [pytest.param(group, marks=pytest.mark.slow, id=name) for name, group in others.items()]

    @pytest.mark.parametrize("group", [*(pytest.param(g[::2], id=name) for name, g in groups().items()), *slow])
    def test(group):
        for geometry in group:
            try:
                law(geometry)
            except Exception as error:
                error.add_note(label(geometry))
                raise

    test.__doc__ = law.__doc__
    return test
