"""Sample: a model with what is needed to compress, train, check and describe it; and how models are run safely."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgecompress.errors import DataError, ModelError
from edgecompress.models.accepting import accepted
from edgecompress.models.calling import call, defined, told
from edgecompress.models.datasets import Inputs, Split, single
from edgecompress.progress import notice

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from edgecompress.plans import CompressionPlan

Outputs = tuple[Tensor, ...]
Loss = Callable[[Any, Tensor], Tensor]
Score = Callable[[Any, Tensor], float]
Augment = Callable[[Any, torch.Generator], Any]

ROUNDING = 1e-5
"""Of the largest value of an output: what the very same operations may differ by."""

SPLITS = ("train", "validation", "test")


def top1(outputs: Any, targets: Tensor) -> float:
    """Top-1 accuracy in percent; ``outputs`` (N, classes), ``targets`` (N,).

    Raises:
        ModelError: there are several outputs, or they are no class scores.
    """
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or targets.shape != outputs.shape[:1]:
        raise ModelError(
            "top-1 accuracy needs one output (N, classes) and targets (N,); define score(outputs, targets) of your own"
        )
    return 100 * int((outputs.argmax(1) == targets).sum()) / len(targets)


@dataclass(frozen=True, slots=True)
class Sample:
    """A model, an example of its input and, where given, its data, loss, score and preprocessing.

    ``source`` can be given to :func:`resolve` again; ``inputs`` are the example's tensors, batch first; ``file`` is
    the Python file the model is defined in; ``dense`` what a compressed model was made from by ``plan``;
    ``validation_seen`` that the weights were trained on the validation split too, whose score then flatters.
    """

    name: str
    source: str
    build: Callable[[], nn.Module]
    inputs: Inputs
    splits: Callable[[str], Dataset[Any]] | None = None
    loss: Loss = field(default=nn.functional.cross_entropy)
    score: Score = field(default=top1)
    augment: Augment | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    plan: CompressionPlan | None = None
    file: Path | None = None
    dense: Sample | None = None
    validation_seen: bool = False

    def __post_init__(self) -> None:
        """Floating inputs in float32, in which models run here."""
        kinds = {str(given.dtype) for given in self.inputs if given is not single(given)}
        if kinds:
            notice(f"{self.name}: its example in {', '.join(sorted(kinds))} is taken in float32".replace("torch.", ""))
            object.__setattr__(self, "inputs", tuple(map(single, self.inputs)))

    @property
    def metric(self) -> dict[str, str]:
        """Name and unit of the score: accuracy in percent, or a score of the user's own without a unit."""
        ours = self.score is top1
        return {"name": "accuracy" if ours else "score", "unit": " %" if ours else ""}

    def model(self) -> nn.Module:
        """Build the model, in eval mode, and prove that it runs on its example, and alike each time.

        Raises:
            ModelError: it cannot be built, is no ``nn.Module`` or a sealed one, does not run, gives NaN, or other
                outputs each time.
        """
        model = self.built()
        check_steady(model, self.inputs, self.name, check_runs(model, self.inputs, self.name))
        return model

    def built(self) -> nn.Module:
        """The model in eval mode, without wrappers and in float32, not yet run.

        Raises:
            ModelError: it cannot be built, is no ``nn.Module``, or one whose layers cannot be reached.
        """
        return accepted(call(self.name, "model()", self.build), self.name, defined(self.build)).eval()

    def data(self, split: str) -> Dataset[Any]:
        """One of the splits ``train``, ``validation``, ``test``.

        Raises:
            DataError: the sample has no data, or it is not where it should be.
        """
        if self.splits is None:
            raise DataError(
                f"{self.name}: has no data; define `def data(split): ...` beside model() to train or score it"
            )
        splits, what = self.splits, f"data({split!r})"
        dataset = call(self.name, what, lambda: splits(split), DataError)
        if isinstance(dataset, Split):
            return dataset
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise DataError(
                f"{self.name}: {what}{defined(splits)} gave a {type(dataset).__name__}; a dataset with length and "
                "indexing was expected"
            )
        if not call(self.name, f"the length of {what}", lambda: len(dataset), DataError):
            raise DataError(f"{self.name}: {what}{defined(splits)} must give a non-empty dataset; it has no items")
        return Split(self.name, f"{what}{defined(splits)}", dataset)


def as_outputs(outputs: object, name: str = "the model") -> Outputs:
    """A model's output as a tuple of tensors; what is None is left out.

    Raises:
        ModelError: it is neither a tensor nor a flat tuple or list of tensors.
    """
    items: list[Any] = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
    items = [item for item in items if item is not None] if len(items) > 1 else items
    if not items or not all(isinstance(item, Tensor) for item in items):
        raise ModelError(
            f"{name}: returns a {type(outputs).__name__}; a tensor or a tuple of tensors was expected: "
            "wrap the model so that it returns those"
        )
    return tuple(items)


def tensors_of(outputs: object) -> Iterator[Tensor]:
    """All tensors of an output, however they are nested."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from tensors_of(value)
    elif isinstance(outputs, tuple | list):
        for value in outputs:
            yield from tensors_of(value)


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
        raise ModelError(f"{name}: does not run on {what} of shape {shapes}: {told(error)}{where}") from error
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
    found: list[tuple[str, float]] = []

    def ended(name: str, _module: nn.Module, _args: object, output: object) -> None:
        found.append((name, float(sum(tensor.detach().double().sum() for tensor in tensors_of(output)))))

    with torch.no_grad(), ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(partial(ended, name)).remove)
        model(*inputs)
    return found


@contextmanager
def noting(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are running, outermost first."""

    def begun(name: str, _module: nn.Module, _args: object) -> None:
        running.append(name)

    def ended(_module: nn.Module, _args: object, _output: object) -> None:
        running.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_pre_hook(partial(begun, name)).remove)
                stack.callback(module.register_forward_hook(ended).remove)
        yield


def given_to(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """What a layer was called with, by position or by name: PyTorch's layers and its Sequential call it ``input``."""
    given = args[0] if args else kwargs["input"]
    assert isinstance(given, Tensor)
    return given


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


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that a hook computed from parameters, which ``deepcopy`` refuses, as plain numbers."""
    computed = {id(tensor): tensor.detach().clone() for tensor in _loose_tensors(model) if not tensor.is_leaf}
    return copy.deepcopy(model, computed)


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy with the parameters of ``model`` itself and with buffers of its own: what a run changes stays in it."""
    memo: dict[int, Any] = {id(t): t.detach().clone() for t in _loose_tensors(model) if not t.is_leaf}
    return copy.deepcopy(model, memo | {id(parameter): parameter for parameter in model.parameters()})


def without_numbers(model: nn.Module) -> nn.Module:
    """A copy on the meta device: its tensors have shapes but no numbers, and nothing is allocated."""
    memo: dict[int, Any] = {id(t): t.detach().to("meta") for t in (*model.buffers(), *_loose_tensors(model))}
    memo |= {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def _loose_tensors(model: nn.Module) -> list[Tensor]:
    """Tensors that are plain attributes of a module, neither parameters nor buffers."""
    return [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
