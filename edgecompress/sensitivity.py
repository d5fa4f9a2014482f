"""What a change of one layer does to the model's output, measured on calibration inputs.

Everything that ran before the layer is replayed from memory, so that a measurement costs only what comes after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from edgecompress.datasets import Inputs
from edgecompress.models import Outputs, as_outputs, evaluating

Change = Callable[[Outputs, Outputs], float]
"""How far outputs are from the dense model's: (dense, changed) to a number not below 0."""

MOST_RECORDED_BYTES = 1 << 30
"""Of outputs kept for replay; layers past that are run again."""


def divergence(dense: Outputs, changed: Outputs) -> float:
    """Kullback-Leibler divergence of class probabilities, nats, averaged over all predictions."""
    total = sum(
        float(kl_div(b.double().log_softmax(-1), a.double().log_softmax(-1), log_target=True, reduction="sum"))
        for a, b in zip(dense, changed, strict=True)
    )
    return max(0.0, total) / sum(a.shape[:-1].numel() for a in dense)


def relative_square(dense: Outputs, changed: Outputs) -> float:
    """Squared difference of the outputs, relative to their variance."""
    off = sum(float((a - b).double().pow(2).sum()) for a, b in zip(dense, changed, strict=True))
    spread = sum(float((a - a.mean(0)).double().pow(2).sum()) for a in dense)
    return off / max(spread, torch.finfo(torch.float64).tiny)


class Probe:
    """A dense model on fixed inputs, in which one layer's weight at a time is changed."""

    def __init__(self, model: nn.Module, inputs: Inputs, change: Change = divergence) -> None:
        self.model, self.inputs, self.change = model, inputs, change
        self.started: list[str] = []
        self.recorded: dict[str, list[Tensor]] = {}
        self.held = 0
        with evaluating(model), torch.no_grad(), _hooks(self._record_hooks()):
            self.dense = as_outputs(model(*inputs))
        self.order = {name: index for index, name in enumerate(self.started)}

    def of(self, name: str, weight: Tensor) -> float:
        """How far the output moves when the layer ``name`` has ``weight``."""
        layer = self.model.get_submodule(name)
        with evaluating(self.model), torch.no_grad(), self._replayed(name), _weighing(layer, weight):
            return self.change(self.dense, as_outputs(self.model(*self.inputs)))

    def _record_hooks(self) -> Iterator[Any]:
        for name, module in self.model.named_modules():
            if name:
                yield module.register_forward_pre_hook(lambda _m, _a, name=name: self.started.append(f"> {name}"))
                yield module.register_forward_hook(lambda _m, _a, out, name=name: self._keep(name, out))

    def _keep(self, name: str, output: object) -> None:
        """Remember when a module ended and, while there is room, what it gave."""
        self.started.append(f"< {name}")
        if isinstance(output, Tensor) and self.held + output.nbytes <= MOST_RECORDED_BYTES:
            self.recorded.setdefault(name, []).append(output.clone())
            self.held += output.nbytes

    @contextmanager
    def _replayed(self, name: str) -> Iterator[None]:
        """The largest modules that ended before ``name`` began give what they gave."""
        begins = self.order[f"> {name}"]
        done = {n for n in self.recorded if self.order[f"< {n}"] < begins and self._ran_once(n)}
        top = [n for n in done if not any(n.startswith(f"{other}.") for other in done)]
        with ExitStack() as stack:
            for replayed in top:
                stack.enter_context(_giving(self.model.get_submodule(replayed), self.recorded[replayed][0]))
            yield

    def _ran_once(self, name: str) -> bool:
        return len(self.recorded[name]) == 1 and self.started.count(f"> {name}") == 1


@contextmanager
def _hooks(handles: Iterator[Any]) -> Iterator[None]:
    registered = list(handles)
    try:
        yield
    finally:
        for handle in registered:
            handle.remove()


@contextmanager
def _giving(module: nn.Module, output: Tensor) -> Iterator[None]:
    """``module`` gives a copy of ``output`` for a while, whatever it is given."""
    own = vars(module).get("forward")
    module.forward = lambda *_args, **_more: output.clone()  # type: ignore[method-assign]
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


@contextmanager
def _weighing(layer: nn.Module, weight: Tensor) -> Iterator[None]:
    """``layer`` has ``weight`` for a while."""
    assert isinstance(layer.weight, Tensor)
    kept = layer.weight.detach().clone()
    layer.weight.data.copy_(weight)
    try:
        yield
    finally:
        layer.weight.data.copy_(kept)
