"""What leaves half precision: every tensor that a model computes is looked at, in float32, on calibration inputs.

Files in fp16 are proved by kernels that compute in float32; a phone's processor may not. A number beyond 65,504 becomes
infinite there, one under 6e-8 zero (IEEE 754 binary16).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgecompress.models import noting, unfused_attention
from edgecompress.models.datasets import Inputs

LARGEST = 65504.0
LEAST = 2.0**-24
"""The least subnormal; half of it and less is rounded to zero."""
LIMITS = {"min", "max", "min_val", "max_val", "posinf", "neginf", "threshold"}
"""Arguments that may be infinite without harm: nothing is cut off then."""
NUMBERS = {"number", "float", "Tensor", "Optional[number]", "Optional[float]"}
"""Types of arguments in an operator's schema that take a number as a value, not as a size or an axis."""
NORMS = {"linalg_vector_norm", "norm"}
VARIANCES = {"std", "var", "std_mean", "var_mean"}


def beyond_half(model: nn.Module, batches: Iterable[Inputs]) -> list[str]:
    """In words, each operator (with its layer) and each weight that half precision cannot hold; empty: none."""
    found = dict.fromkeys(_weights(model))
    watching = _Watching()
    with torch.no_grad(), unfused_attention(), noting(model, watching.layers):
        for inputs in batches:
            watching.begin(inputs)
            with watching:
                model(*(tensor.clone() for tensor in inputs))  # it may write into them
    return [*found, *watching.reports()]


def _weights(model: nn.Module) -> Iterator[str]:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point() and tensor.numel() and (why := outside(largest(tensor))):
            yield f"the weight {name} {why}"


def largest(tensor: Tensor) -> float:
    """The largest finite absolute value."""
    finite = tensor.detach()[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def outside(value: float) -> str:
    """What becomes of a tensor of this largest absolute value; empty: nothing."""
    if value > LARGEST:
        return f"reaches {value:.3g}, half precision ends at 65,504"
    return f"is at most {value:.3g}, which is 0 in half precision" if 0 < value <= LEAST / 2 else ""


class _Watching(TorchDispatchMode):
    """Keeps the largest value of each operator's output, call by call, and what its constants become."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[str] = []
        self.seen: dict[tuple[int, str], float] = {}
        self.inner: dict[str, float] = {}
        self.constants: dict[str, None] = {}
        self.calls = 0

    def begin(self, inputs: Inputs) -> None:
        """Another batch."""
        self.calls = 0
        for index, tensor in enumerate(inputs):
            if tensor.is_floating_point():
                self._note(f"input {index}", largest(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and look at what it gave."""
        del types
        made = func(*args, **(kwargs or {}))
        outputs = [tensor for tensor in tree_leaves(made) if isinstance(tensor, Tensor) and tensor.is_floating_point()]
        if outputs:
            name, found = self._name(func), max(map(largest, outputs))
            self._note(name, found)
            inner = _inside(_bare(func), args, found)
            if inner > LARGEST:
                self.inner[f"{name}, where it squares,"] = inner
            self.constants |= dict.fromkeys(f"{name}: {why}" for why in _constants(func, args, kwargs or {}))
        return made

    def reports(self) -> list[str]:
        """What left half precision, each operator of a layer once."""
        each = [*((name, value) for (_, name), value in self.seen.items()), *self.inner.items()]
        reported: dict[str, str] = {}
        for name, value in each:
            if why := outside(value):
                reported.setdefault(name, f"{name} {why}")
        return [*reported.values(), *self.constants]

    def _name(self, func: Any) -> str:
        return f"{_bare(func)} of {self.layers[-1] if self.layers else 'the model'}"

    def _note(self, name: str, value: float) -> None:
        self.calls += 1
        key = (self.calls, name)
        self.seen[key] = max(self.seen.get(key, 0.0), value)


def _constants(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[str]:
    """What becomes of numbers, as eps, that an operator is given beside tensors."""
    given = [*zip(func._schema.arguments, args, strict=False)]
    given += [(argument, kwargs[argument.name]) for argument in func._schema.arguments if argument.name in kwargs]
    for argument, argument_value in given:
        value = _number(argument_value) if str(argument.type) in NUMBERS else 0.0
        if 0 < abs(value) < LEAST * 0.999:
            yield f"its constant {value:.3g} is 0 in half precision"
        elif LARGEST < abs(value) < float("inf") and argument.name not in LIMITS:
            yield f"its constant {value:.3g} is infinite in half precision"


def _number(value: object) -> float:
    """A number, plain or as a tensor without axes; 0 for anything else."""
    if isinstance(value, Tensor):
        return float(value) if value.dim() == 0 and value.is_floating_point() else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def _bare(func: Any) -> str:
    name: str = func._schema.name.partition("::")[2]
    return name.removeprefix("_").removeprefix("native_")


def _inside(operator: str, args: Sequence[Any], found: float) -> float:
    """The largest sum of squares inside a norm that gave ``found``, or square of what a normalisation centred."""
    if operator in NORMS:
        return found**2
    apart = _deviations(operator, args)
    return float(apart.abs().max()) ** 2 if apart is not None and apart.numel() else 0.0


def _deviations(operator: str, args: Sequence[Any]) -> Tensor | None:
    """From the means that a normalisation or a variance takes; None for other operators."""
    if not args or not isinstance(args[0], Tensor):
        return None
    rows: Tensor = args[0]
    dims: Sequence[int] = (-1,)
    if operator == "layer_norm":
        rows = rows.flatten(-len(args[1]))
    elif operator == "group_norm":
        rows = rows.reshape(len(rows) * args[6], -1)
    elif operator == "batch_norm" and args[5]:
        rows = rows.transpose(0, 1).flatten(1)
    elif operator in VARIANCES:
        dims = args[1] if len(args) > 1 and args[1] else range(rows.dim())
    else:
        return None
    found: Tensor = rows - rows.mean(tuple(dims), keepdim=True)
    return found
