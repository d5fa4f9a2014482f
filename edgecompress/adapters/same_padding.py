"""Convolutions that pad their input first: "same" padding as TensorFlow has it, of fixed and of any input sizes.

Which it is shows in what the layer does: it runs on several sizes, and what reaches its one convolution is compared
with what it was given. "Same" padding by size is that of ``tf.nn.convolution``: as many zeros as an output of
``ceil(size / stride)`` needs, the odd one behind.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from edgecompress.adapters.base import Unadaptable, alike
from edgecompress.adapters.subclass import base_of, computes_itself

CONVOLUTIONS: dict[Any, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    torch.conv1d: nn.Conv1d,
    torch.conv2d: nn.Conv2d,
    torch.conv3d: nn.Conv3d,
}
ZEROS: dict[int, Any] = {1: nn.ZeroPad1d, 2: nn.ZeroPad2d, 3: nn.ZeroPad3d}
ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
USUAL = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}

STEPS = (0, 1, 2, 3, 4, 5, 30)
"""Sizes that a layer is run on, above the smallest that it takes."""

Sides = tuple[tuple[int, int], ...]
"""For each axis the zeros before and behind."""


class SamePad(nn.Module):
    """Zeros around an input (N, C, *sizes), so that a convolution gives ``ceil(size / stride)`` outputs an axis.

    Args:
        reaches: for each axis the inputs that one output spans: dilation x (kernel - 1) + 1.
        strides: of the convolution.
    """

    def __init__(self, reaches: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.reaches, self.strides = tuple(reaches), tuple(strides)

    def forward(self, given: Tensor) -> Tensor:
        """(N, C, *sizes) with the zeros around it."""
        return functional.pad(given, as_widths(same_sides(given.shape[2:], self.reaches, self.strides)))

    def extra_repr(self) -> str:
        """What it is made with."""
        return f"reaches={self.reaches}, strides={self.strides}"


def same_sides(sizes: Sequence[int], reaches: Sequence[int], strides: Sequence[int]) -> Sides:
    """The zeros of "same" padding, the odd one behind."""
    totals = [missing_zeros(*each) for each in zip(sizes, reaches, strides, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def as_widths(sides: Sides) -> tuple[int, ...]:
    """As ``nn.functional.pad`` takes it: the last axis first."""
    return tuple(width for pair in reversed(sides) for width in pair)


def reaches_of(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """For each axis the inputs that one output spans."""
    return tuple(step * (taps - 1) + 1 for step, taps in zip(dilation, kernel, strict=True))


def missing_zeros(size: int, reach: int, stride: int) -> int:
    """The zeros that one axis needs in all; ``size`` may be symbolic."""
    missing = reach - stride + -size % stride
    return missing if reach >= stride else int(torch.sym_max(missing, 0))


@dataclass(frozen=True, slots=True)
class _Run:
    """What a layer gave for an input, and the arguments of the one convolution it ran."""

    given: Tensor
    output: Tensor
    kind: type[nn.Conv1d | nn.Conv2d | nn.Conv3d]
    arguments: dict[str, Any]

    @property
    def axes(self) -> int:
        return self.given.dim() - 2

    def each(self, argument: str) -> tuple[int, ...]:
        """An argument for each axis."""
        value = self.arguments[argument]
        return (value,) * self.axes if isinstance(value, int) else tuple(map(int, value)) * (self.axes // len(value))

    @property
    def reaches(self) -> tuple[int, ...]:
        """The inputs that one output spans."""
        return reaches_of(self.arguments["weight"].shape[2:], self.each("dilation"))

    def sides(self) -> Sides | None:
        """The zeros that were put around the input, by hand and by the convolution; None: it was changed otherwise."""
        padded, own = self.arguments["input"], self.arguments["padding"]
        if padded.dim() != self.given.dim() or isinstance(own, str):
            return None
        found = tuple(_around(padded, self.given, 2 + axis) for axis in range(self.axes))
        widths = as_widths(found)
        if min(widths) < 0 or not torch.equal(functional.pad(self.given, widths), padded):
            return None
        return tuple((before + p, behind + p) for (before, behind), p in zip(found, self.each("padding"), strict=True))


def _around(padded: Tensor, given: Tensor, axis: int) -> tuple[int, int]:
    """The zeros before and behind ``given``, which has none itself, along one axis."""
    filled = padded.abs().amax([other for other in range(padded.dim()) if other != axis]).nonzero()
    before = int(filled[0]) if len(filled) else 0
    return before, padded.shape[axis] - given.shape[axis] - before


class _Watch(TorchFunctionMode):
    """Keeps the convolutions that run while it is open."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Every function of PyTorch's comes by here."""
        del types
        if func in CONVOLUTIONS:
            named = dict(zip(ARGUMENTS, args, strict=False))
            self.calls.append((CONVOLUTIONS[func], {**USUAL, **named, **(kwargs or {})}))
        return func(*args, **(kwargs or {}))


class SamePadding:
    """Convolutions whose forward only pads."""

    name = "same_padding"
    summary = 'convolutions that pad their input themselves, "same" as in TensorFlow: a pad, then the convolution'
    notice = ""

    def recognizes(self, module: nn.Module) -> bool:
        """Subclasses of convolutions with another forward."""
        base = base_of(module)
        return base is not None and base in CONVOLUTIONS.values() and computes_itself(module, base)

    def adapt(self, module: nn.Module) -> nn.Module:
        """The plain convolution where the padding is the same on both sides; else a Sequential of ``pad`` and ``conv``.

        Raises:
            Unadaptable: its forward does more than pad with zeros.
        """
        why = f"{type(module).__name__}: its forward does more than pad with zeros and convolve"
        extra = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
        if not set(extra) <= {"weight", "bias"}:
            raise Unadaptable(f"{type(module).__name__}: its forward is its own, and it holds more than one weight")
        try:
            runs = [run for training in (False, True) for run in _runs(module, training=training)]
        except Exception as error:  # its code may do anything with an input of another size
            raise Unadaptable(f"{why} ({type(error).__name__})") from None
        made = _rewritten(module, runs)
        if made is None or not all(alike(made(run.given), run.output) for run in runs):
            raise Unadaptable(why)
        return made.train(module.training)


def _runs(module: nn.Module, *, training: bool) -> list[_Run]:
    """Runs on several sizes, another one along each axis."""
    base, mode = base_of(module), module.training
    assert isinstance(module, nn.modules.conv._ConvNd)
    reaches = reaches_of(module.kernel_size, module.dilation)
    assert base is not None
    try:
        return [_run(module.train(training), [r + more + axis for axis, r in enumerate(reaches)]) for more in STEPS]
    finally:
        module.train(mode)


def _run(module: nn.modules.conv._ConvNd, sizes: Sequence[int]) -> _Run:
    generator = torch.Generator().manual_seed(sum(sizes))
    weight = module.weight
    given = torch.randn(1, module.in_channels, *sizes, generator=generator).to(weight)
    with torch.no_grad(), torch.random.fork_rng(devices=[]), _Watch() as watch:
        output = module(given.clone())
    ((kind, arguments),) = watch.calls
    return _Run(given, output, kind, arguments)


def _rewritten(module: nn.Module, runs: Sequence[_Run]) -> nn.Module | None:
    """What does the same, as far as the runs show; None: nothing that is known here."""
    first, sides = runs[0], [run.sides() for run in runs]
    same_numbers = all(
        run.arguments["weight"] is module.weight and run.arguments["bias"] is module.bias for run in runs
    )
    if not same_numbers or None in sides:
        return None
    made = _convolution(module, first)
    if len(set(sides)) == 1:
        return _with_fixed(made, sides[0] or ())
    if all(
        side == same_sides(run.given.shape[2:], run.reaches, run.each("stride"))
        for side, run in zip(sides, runs, strict=True)
    ):
        return _padded(SamePad(first.reaches, first.each("stride")), made)
    return None


def _convolution(module: nn.Module, run: _Run) -> nn.modules.conv._ConvNd:
    """The convolution that ran, without padding; its parameters are those of ``module``."""
    weight, groups = run.arguments["weight"], int(run.arguments["groups"])
    made = run.kind(1, 1, 1, bias=False, device="meta")
    made.stride, made.dilation = run.each("stride"), run.each("dilation")
    made.in_channels, made.out_channels, made.groups = weight.shape[1] * groups, weight.shape[0], groups
    made.kernel_size = tuple(weight.shape[2:])
    made.weight, made.bias = module.weight, module.bias  # type: ignore[assignment]
    return made


def _with_fixed(conv: nn.modules.conv._ConvNd, sides: Sides) -> nn.Module:
    """The convolution with zeros of the same widths around every input."""
    if all(before == behind for before, behind in sides):
        conv.padding = tuple(before for before, _ in sides)
        conv._reversed_padding_repeated_twice = list(as_widths(sides))
        return conv
    return _padded(ZEROS[len(sides)](as_widths(sides)), conv)


def _padded(pad: nn.Module, conv: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(pad=pad, conv=conv))
