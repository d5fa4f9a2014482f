"""What a model takes and gives, in whatever form, as tensors in a row with names: here and nowhere else.

Tensors may lie in tuples, lists, dicts, dataclasses and what is like them, as ModelOutput of Hugging Face; what is none
of these is a leaf. Stages work on rows of tensors, batch first; the model and the user's code see their own form.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from edgecompress.progress import notice

BUFFER = "given_{}"
"""What an input that has no batch is called in the model."""


class Place(NamedTuple):
    """Where the tensor of that number goes; ``buffer``: where a tensor goes that the model keeps by that name."""

    number: int = -1
    buffer: str = ""


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What lies in a value, depth first, with the keys and numbers that lead to it."""
    parts = _parts(value)
    if parts is None:
        yield path, value
        return
    for key, part in parts:
        yield from leaves(part, (*path, key))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same form with every leaf changed."""
    parts = _parts(value)
    return change(value) if parts is None else _like(value, {key: mapped(part, change) for key, part in parts})


def filled(like: Any, tensors: Sequence[Tensor]) -> Any:
    """The form of ``like`` with other tensors in the places of its own, in order, and in their dtypes."""
    left = iter(tensors)
    return mapped(like, lambda leaf: next(left).to(leaf.dtype) if isinstance(leaf, Tensor) else leaf)


def names_of(outputs: Any) -> tuple[str, ...]:
    """The names of an output's tensors where it has keys; none of a tensor, or of tensors by number alone."""
    paths = [path for path, leaf in leaves(outputs) if isinstance(leaf, Tensor)]
    named = any(not part.isdigit() for path in paths for part in path)
    return tuple(_name(path) for path in paths) if named else ()


def class_scores(outputs: Any) -> Any:
    """What losses and scores without a function of the user's are of: ``logits``, or the only tensor there is."""
    if isinstance(outputs, Tensor) or _parts(outputs) is None:
        return outputs
    tensors = {path: leaf for path, leaf in leaves(outputs) if isinstance(leaf, Tensor)}
    only = next(iter(tensors.values())) if len(tensors) == 1 and isinstance(outputs, Mapping) else outputs
    return tensors.get(("logits",), only)


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """What a value holds, by key or number; None of a leaf."""
    if isinstance(value, Place):
        return None
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, tuple | list):
        return [(str(index), part) for index, part in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _like(value: Any, parts: dict[str, Any]) -> Any:
    """A value of the same kind with these parts."""
    if isinstance(value, tuple | list):
        return type(value)(*parts.values()) if hasattr(value, "_fields") else type(value)(parts.values())
    if isinstance(value, Mapping):
        made = copy.copy(value)
        for key in value:
            made[key] = parts[str(key)]  # type: ignore[index]
        return made
    made = copy.copy(value)
    for key, part in parts.items():
        object.__setattr__(made, key, part)
    return made


def _name(path: tuple[str, ...]) -> str:
    """Keys and numbers as one name; the number of a positional input is left out where there is more."""
    return re.sub(r"\W", "_", "_".join(path))


@dataclass(frozen=True)
class Form:
    """How a row of tensors lies in what a model is called with.

    Args:
        template: that, with a :class:`Place` for every tensor.
        names: of the tensors; empty for those that have a number alone.
        kept: tensors that have no batch in front, as they are in the example.
    """

    template: Any
    names: tuple[str, ...]
    kept: dict[str, Tensor]

    def filled(self, tensors: Sequence[Tensor], buffers: Mapping[str, Any]) -> Any:
        """What the model is called with."""

        def put(leaf: Any) -> Any:
            if not isinstance(leaf, Place):
                return leaf
            return buffers[BUFFER.format(leaf.buffer)] if leaf.buffer else tensors[leaf.number]

        return mapped(self.template, put)

    def given(self, tensors: Sequence[Tensor]) -> Any:
        """The inputs as the user's code knows them: a tensor, a tuple, a dict ..."""
        value = self.filled(tensors, {BUFFER.format(name): tensor for name, tensor in self.kept.items()})
        return value[0] if isinstance(value, tuple) and len(value) == 1 else value

    def row(self, value: Any) -> tuple[Any, ...]:
        """The tensors of inputs of this form, in order.

        Raises:
            LookupError, TypeError, AttributeError: the inputs are of another form.
        """
        if isinstance(value, Tensor):
            value = (value,)
        if isinstance(value, tuple | list) and len(value) == len(self.names) and all(map(_is_tensor, value)):
            return tuple(value)
        alone = isinstance(self.template, tuple) and len(self.template) == 1 and not isinstance(value, tuple | list)
        found: dict[int, Any] = {}
        _collect(self.template[0] if alone else self.template, value, found)
        return tuple(found[index] for index in range(len(self.names)))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _collect(template: Any, value: Any, found: dict[int, Any]) -> None:
    """What of ``value`` is at the places of ``template``."""
    if isinstance(template, Place) and not template.buffer:
        found[template.number] = value
    for key, part in _parts(template) or ():
        if any(isinstance(leaf, Place) and not leaf.buffer for _, leaf in leaves(part)):
            by_number = isinstance(value, tuple | list) and key.isdigit()
            inner = value[int(key)] if by_number else value[key] if isinstance(value, Mapping) else getattr(value, key)
            _collect(part, inner, found)


def flattened(value: Any, name: str) -> tuple[Form | None, tuple[Tensor, ...]]:
    """The form of what a model is called with, and its tensors; None for tensors by position alone.

    A tensor without axes, or with another number of rows than most, is kept as it is, with a notice that names it and
    ``name``, the model's.
    """
    value = tuple(value) if isinstance(value, list) else value if isinstance(value, tuple | Mapping) else (value,)
    tensors = {path: leaf for path, leaf in leaves(value) if isinstance(leaf, Tensor)}
    rows = Counter(len(tensor) for tensor in tensors.values() if tensor.dim())
    batch = max(rows, key=lambda count: rows[count]) if rows else 0
    kept = {_name(path): leaf for path, leaf in tensors.items() if not leaf.dim() or len(leaf) != batch}
    row = {path: leaf for path, leaf in tensors.items() if _name(path) not in kept}
    if not kept and isinstance(value, tuple) and all(map(_is_tensor, value)):
        return None, value
    for which, tensor in kept.items():
        fact = f"{len(tensor)} rows where others have {batch}" if tensor.dim() else "no axes"
        notice(f"{name}: input {which!r} has {fact}: its example becomes part of the model")
    places = {path: Place(index) for index, path in enumerate(row)}
    places |= {path: Place(buffer=_name(path)) for path in tensors if path not in row}
    ordered = iter([places.get(path, leaf) for path, leaf in leaves(value)])
    template = mapped(value, lambda _: next(ordered))
    return Form(template, tuple(map(_input_name, row)), kept), tuple(row.values())


def _input_name(path: tuple[str, ...]) -> str:
    """As the user calls an input; empty for one that has a number alone."""
    named = path[1:] if path[0].isdigit() else path
    return _name(named)


def by_position(names: Sequence[str]) -> Form:
    """The form of tensors by position that have names too, as in a file."""
    return Form(tuple(map(Place, range(len(names)))), as_names(names) or ("",) * len(names), {})


def as_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of values in a file as Python and all targets take them: what is no letter, digit or _ becomes _.

    Empty where they would not differ any more.
    """
    made = tuple(re.sub(r"\W|^(?=\d)", "_", name, flags=re.ASCII) for name in names)
    return made if len(set(made)) == len(made) and not any(map(keyword.iskeyword, made)) else ()


def flat(model: nn.Module, form: Form) -> nn.Module:
    """``model``, sharing its layers, with a ``forward`` that takes a row of tensors: a class of its own.

    A dict is given by name where ``forward`` has parameters of these names, else as one argument.
    """
    kind, made = type(model), copy.copy(model)
    made._buffers = dict(model._buffers)
    for name, tensor in form.kept.items():
        made.register_buffer(BUFFER.format(name), tensor, persistent=False)
    by_name = isinstance(form.template, Mapping) and _takes(kind, form.template)

    def forward(self: nn.Module, *inputs: Tensor) -> Any:
        given = form.filled(inputs, self._buffers)
        if by_name:
            return kind.forward(self, **given)
        return kind.forward(self, *(given if isinstance(given, tuple) else (given,)))

    names = [name or f"input_{index}" for index, name in enumerate(form.names)]
    order = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, order) for name in ("self", *names)])  # type: ignore[attr-defined]
    made.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__, "form": form})
    return made


def in_own_form(model: nn.Module) -> nn.Module:
    """What :func:`flat` made of a model, called as that was before; any other as it is."""
    form = getattr(type(model), "form", None)
    if form is None:
        return model
    made = copy.copy(model)
    made._buffers = {
        name: tensor for name, tensor in model._buffers.items() if name not in map(BUFFER.format, form.kept)
    }
    made.__class__ = type(model).__bases__[0]
    return made


def _takes(kind: type[nn.Module], names: Mapping[str, Any]) -> bool:
    """Whether ``forward`` can be called with these names."""
    try:
        inspect.signature(kind.forward).bind(None, **names)
    except (TypeError, ValueError):
        return False
    return True
