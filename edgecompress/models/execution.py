"""How models are run: checked, observed layer by layer, in eval mode, by plain operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgecompress.errors import ModelError
from edgecompress.models.calling import call, in_one_line
from edgecompress.models.datasets import Inputs
from edgecompress.models.forms import leaves

Outputs = tuple[Tensor, ...]

ROUNDING = 1e-5
"""Of the largest value of an output: what the very same operations may differ by."""


def as_outputs(outputs: object, name: str = "the model") -> Outputs:
    """The tensors of a model's output, in order; what is no tensor is left out.

    Raises:
        ModelError: there is none.
    """
    items = tuple(tensors_of(outputs))
    if not items:
        raise ModelError(
            f"{name}: returns a {type(outputs).__name__} without tensors; a tensor, or a tuple or dict of tensors was "
            "expected"
        )
    return items


def tensors_of(outputs: object) -> Iterator[Tensor]:
    """All tensors of an output, however they are nested."""
    return (leaf for _, leaf in leaves(outputs) if isinstance(leaf, Tensor))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """The same shape, dtype and, but for rounding, numbers; NaN and infinity are equal to themselves."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    if torch.equal(ours, theirs) or not ours.numel():
        return True
    if not (ours.is_floating_point() or ours.is_complex()):
        return False
    finite = theirs[theirs.isfinite()]
    largest = float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(ours, theirs, rtol=0, atol=ROUNDING * largest, equal_nan=True)


def check_batch(inputs: Inputs, name: str, what: str = "its example") -> None:
    """Prove that every input has the batch in front.

    Raises:
        ModelError: one has no axes, or another number of rows than the first.
    """
    rows = [len(tensor) if tensor.dim() else None for tensor in inputs]
    for index, count in enumerate(rows):
        if count is None or count != rows[0]:
            fact = "has no axes" if count is None else f"has {count} rows, input 0 has {rows[0]}"
            raise ModelError(
                f"{name}: input {index} of {what} {fact}: the batch comes first in every input; keep what is not of "
                "the items, as anchors, in the model (register_buffer), or give it one row for each item"
            )


def check_runs(model: nn.Module, inputs: Inputs, name: str, what: str = "its example") -> Outputs:
    """Run ``model`` once, in eval mode, on ``inputs``, for its outputs; ``what`` the inputs are, for the message.

    Raises:
        ModelError: it fails, or its output is not made of tensors.
    """
    check_batch(inputs, name, what)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
    running: list[str] = []
    try:
        with torch.no_grad(), noting(model, running):
            outputs = model.eval()(*(tensor.clone() for tensor in inputs))  # it may write into them
    except Exception as error:
        where = f" (in layer {running[-1]!r})" if running else ""
        raise ModelError(f"{name}: does not run on {what} of shape {shapes}: {in_one_line(error)}{where}") from error
    return as_outputs(outputs, name)


def check_steady(model: nn.Module, inputs: Inputs, name: str, outputs: Outputs) -> None:
    """Prove that ``outputs``, of one run on ``inputs``, hold no NaN and come again.

    Raises:
        ModelError: with the first layer whose output is NaN, or another each time.
    """
    if any(output.is_floating_point() and bool(output.isnan().any()) for output in outputs):
        values = _values(model, inputs)
        where = next((layer for layer, value in values if math.isnan(value)), "")
        raise ModelError(f"{name}: gives NaN on its example{_in_layer(where)}; check the weights and the example")
    again = check_runs(model, inputs, name)
    if len(again) != len(outputs) or not all(map(same, again, outputs)):
        pairs = zip(_values(model, inputs), _values(model, inputs), strict=False)
        where = next((ours[0] for ours, theirs in pairs if ours != theirs), "")
        raise ModelError(
            f"{name}: gives other outputs each time it runs on its example{_in_layer(where)}; take what is random, or "
            "remembers earlier calls, out of forward (dropout: training=self.training)"
        )


def _in_layer(name: str) -> str:
    return f" (from {name!r} on)" if name else ""


def _values(model: nn.Module, inputs: Inputs) -> list[tuple[str, float]]:
    """For each module, in the order in which they end, a number made of its outputs."""
    sums: list[tuple[str, float]] = []

    def ended(call: Call) -> None:
        sums.append((call.name, float(sum(tensor.detach().double().sum() for tensor in tensors_of(call.output)))))

    with torch.no_grad(), observing(model.named_modules(), after=ended):
        model(*inputs)
    return sums


@contextmanager
def noting(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running, outermost first."""

    def begun(call: Call) -> None:
        running.append(call.name)

    def ended(_call: Call) -> None:
        running.pop()

    inner = [(name, module) for name, module in model.named_modules() if name]
    with observing(inner, before=begun, after=ended):
        yield


class Call(NamedTuple):
    """One call of a module that is observed: its name, what it was called with and, afterwards, what it gave."""

    name: str
    layer: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any = None

    @property
    def given(self) -> Tensor:
        """The layer's input, by position or by name: PyTorch's layers and its Sequential call it ``input``."""
        given = self.args[0] if self.args else self.kwargs["input"]
        assert isinstance(given, Tensor)
        return given


@contextmanager
def observing(
    layers: Iterable[tuple[str, nn.Module]],
    *,
    before: Callable[[Call], None] | None = None,
    after: Callable[[Call], Any] | None = None,
) -> Iterator[None]:
    """While this is open, be called before and after each run of each of ``layers``, pairs of a name and a module.

    What ``after`` returns takes the place of the output, unless that is None.
    """

    def begun(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if before is not None:
            before(Call(name, layer, args, kwargs))

    def ended(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
        return None if after is None else after(Call(name, layer, args, kwargs, output))

    with ExitStack() as stack:
        for name, layer in layers:
            if before is not None:
                stack.callback(layer.register_forward_pre_hook(partial(begun, name), with_kwargs=True).remove)
            if after is not None:
                stack.callback(layer.register_forward_hook(partial(ended, name), with_kwargs=True).remove)
        yield


def named_layers(model: nn.Module, names: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    """Pairs for :func:`observing`."""
    return ((name, model.get_submodule(name)) for name in names)


def calibrated(model: nn.Module, inputs: Inputs) -> Any:
    """What ``model`` gives for calibration inputs.

    Raises:
        ModelError: it fails on them.
    """
    return call(type(model).__name__, "running the model on calibration inputs", partial(model, *inputs))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for a while, then every module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Attention and encoders by the operators they consist of, not by PyTorch's fused ones, which hide them."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
