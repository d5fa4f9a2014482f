"""What a model file, or an importable module, defines; only ``model`` and ``example`` are required.

::

    def model() -> nn.Module: ...                       # built, trained weights loaded
    def example() -> Tensor | tuple | dict: ...         # one input batch (any batch size), by position or by name
    def data(split) -> Dataset: ...                     # "train", "validation" or "test"; items (input, target)
    def loss(outputs, targets) -> Tensor: ...           # default: cross-entropy, averaged over the batch
    def score(outputs, targets) -> float: ...           # default: top-1 accuracy in percent; higher is better
    def augment(inputs, generator) -> Tensor: ...       # applied to each training batch
    preprocessing = {...}                               # goes into the manifest of a bundle
    validation_seen = False                             # were the weights trained on the validation split too?
    outputs = "tokens"                                  # or "classes", "values"; default: by the loss

The shipped samples are such files, resolved by the same code.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from edgecompress.errors import ModelError
from edgecompress.models import Sample, tensors_of
from edgecompress.models.calling import call
from edgecompress.models.kinds import checked_kind


def sample_in(module: ModuleType, attribute: str, name: str, source: str, reference: str) -> Sample:
    """The sample made of a module's definitions.

    Args:
        module: loaded, whose ``example`` is called here.
        attribute: the name of the function that builds the model, or of the model.
        name: the sample's.
        source: what the sample can be resolved by again.
        reference: how it was given, for messages.

    Raises:
        ModelError: it lacks the model or the example, or its preprocessing cannot be written down.
    """
    model = getattr(module, attribute, None)
    if model is None or not (callable(model) or isinstance(model, nn.Module)):
        raise ModelError(
            f"{reference}: defines no {attribute!r}; write `def {attribute}() -> torch.nn.Module: ...`, "
            "or name another function after a colon (file.py:name)"
        )
    build = (lambda: model) if isinstance(model, nn.Module) else model
    splits = cache(module.data) if hasattr(module, "data") else None
    optional = {key: getattr(module, key) for key in ("loss", "score", "augment") if hasattr(module, key)}
    outputs = getattr(module, "outputs", None)
    return Sample(
        name,
        source,
        build,
        _example(module, reference),
        splits,
        file=_file_of(module),
        preprocessing=_preprocessing(module, reference),
        validation_seen=bool(getattr(module, "validation_seen", False)),
        outputs=checked_kind(outputs, reference) if isinstance(outputs, str) else None,
        **optional,
    )


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def _preprocessing(module: ModuleType, reference: str) -> dict[str, Any]:
    """The module's preprocessing, proved to be JSON: it goes into manifests."""
    given = getattr(module, "preprocessing", {})
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{reference}: preprocessing must be numbers, text, lists and dicts: {error}") from None
    if not isinstance(given, dict):
        raise ModelError(f"{reference}: preprocessing must be a dict, it is a {type(given).__name__}")
    return given


def _example(module: ModuleType, reference: str) -> Any:
    """What the model is called with, in the user's form."""
    example = getattr(module, "example", None)
    value = call(reference, "example()", example) if callable(example) else example
    if not any(tensor.dim() for tensor in tensors_of(value)):
        raise ModelError(
            f"{reference}: defines no usable 'example'; write `def example(): return torch.zeros(1, 3, 32, 32)` "
            "(a tensor, a tuple of tensors, or a dict of them by name, batch first)"
        )
    return value
