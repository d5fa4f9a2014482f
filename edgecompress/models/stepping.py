"""A causal language model of Hugging Face as one step of generation: keys and values of earlier tokens go in and out.

One graph computes a prompt (no earlier tokens), and then token by token. Inputs and outputs are called as Hugging Face
and those who load its exports call them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import EdgeCompressError, NotExportable, first_line
from edgecompress.models.datasets import Inputs
from edgecompress.models.forms import class_scores, in_own_form
from edgecompress.models.masks import is_by_position

IDS, MASK, POSITIONS, KEPT = "input_ids", "attention_mask", "position_ids", "logits_to_keep"
LOGITS, PAST, PRESENT, PARTS = "logits", "past_key_values", "present", ("key", "value")
CACHE_NAMES = ("cache", PAST)
"""What transformers calls the argument, since 5.24 and before."""
WITHOUT = "; leave out --kv-cache: such a file computes all positions each time"
NEW, EARLIER = 3, 5
"""Tokens of the example that is traced, and those before them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of generation.

    ``model`` takes the row ``names`` and gives the row ``outputs``: tokens (N, n), mask (N, p + n) of earlier ones too
    and, where the language model takes them, positions (N, n) and which of the n get logits (k,); then key and value
    (N, heads, p, width) of each layer. It gives logits (N, k, vocabulary) and keys and values (N, heads, p + n, width).
    """

    model: nn.Module
    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return (LOGITS, *(name.replace(PAST, PRESENT, 1) for name in self.names if name.startswith(PAST)))

    @property
    def free(self) -> tuple[dict[int, str], ...]:
        """Names of the free axes of each input."""
        few = {
            IDS: {0: "batch", 1: "positions"},
            MASK: {0: "batch", 1: "total"},
            POSITIONS: {0: "batch", 1: "positions"},
            KEPT: {0: "kept"},
        }
        return tuple(few.get(name, {0: "batch", 2: "past"}) for name in self.names)

    def row(self, tokens: Tensor, mask: Tensor, past: Sequence[Tensor] = (), kept: Tensor | None = None) -> Inputs:
        """Inputs for ``tokens`` (N, n) after those of ``past``; ``mask`` (N, p + n) has a 0 for padding."""
        new = tokens.shape[1]
        found = {IDS: tokens, MASK: mask, POSITIONS: positions(mask)[:, -new:]}
        found[KEPT] = torch.arange(new) if kept is None else kept
        empty = [torch.zeros(len(tokens), heads, 0, width) for heads, width in self.shapes]
        return (*(found[name] for name in self.names if name in found), *(past or empty))

    def example(self, inputs: Inputs) -> Inputs:
        """A row in which no two axes that are free have one size."""
        tokens = inputs[0][torch.arange(2) % len(inputs[0])][:, torch.arange(NEW) % inputs[0].shape[1]]
        generator = torch.Generator().manual_seed(0)
        past = [torch.randn(2, heads, EARLIER, width, generator=generator) for heads, width in self.shapes]
        return self.row(tokens, torch.ones(2, EARLIER + NEW, dtype=torch.int64), past, torch.arange(2))


def positions(mask: Tensor) -> Tensor:
    """Of a mask (N, positions), which token of its row each is; 0 for padding in front."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def as_step(model: nn.Module, inputs: Inputs, name: str) -> Step:
    """``model``, sharing its layers, as one step of generation.

    Args:
        model: of a class of Hugging Face's transformers that generates text, as it is or as a sample has it.
        inputs: an example: tokens (N, positions), alone or with their mask.
        name: of the model, for messages.

    Raises:
        NotExportable: it is no such model, takes something else, or keeps something else than keys and values.
    """
    language = in_own_form(model)
    argument = _cache_argument(language, name)
    _refuse_inputs(model, inputs, name)
    shapes = _cached_shapes(language, inputs[0], argument, name)
    given = inspect.signature(type(language).forward).parameters
    names = [IDS, MASK, *(each for each in (POSITIONS, KEPT) if each in given)]
    names += [f"{PAST}.{index // 2}.{PARTS[index % 2]}" for index in range(len(shapes))]
    return Step(_stepping(language, argument, names), tuple(names), shapes)


def logits_of(model: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """What a causal language model gives for whole rows (N, positions) at once, without earlier ones."""
    language = in_own_form(model)
    known = {POSITIONS: positions(mask)} if POSITIONS in inspect.signature(type(language).forward).parameters else {}
    with torch.no_grad():
        found: Tensor = class_scores(language(input_ids=tokens, attention_mask=mask, use_cache=False, **known))
    return found


def _cache_argument(language: nn.Module, name: str) -> str:
    kind = type(language)
    theirs = any(each.__module__.startswith("transformers.") for each in kind.__mro__)
    given = inspect.signature(kind.forward).parameters
    found = next((each for each in CACHE_NAMES if each in given), None)
    if not theirs or found is None or "use_cache" not in given:
        raise NotExportable(
            f"{name}: --kv-cache is for causal language models of Hugging Face's transformers, and a {kind.__name__} "
            f"takes no cache of keys and values; let model() give such a model itself, not one around it{WITHOUT}"
        )
    return found


def _refuse_inputs(model: nn.Module, inputs: Inputs, name: str) -> None:
    form = getattr(type(model), "form", None)
    names = tuple(form.names if form else ()) or ("",) * len(inputs)
    usual = all(given in ("", wanted) for given, wanted in zip(names, (IDS, MASK), strict=False))
    if len(inputs) > 2 or not usual or not all(map(is_by_position, inputs)):
        given = ", ".join(f"{n or 'an input'} {tuple(t.shape)}" for n, t in zip(names, inputs, strict=True))
        raise NotExportable(
            f"{name}: --kv-cache takes models whose example is {IDS} (N, positions), alone or with {MASK} after it; "
            f"this one has {given}"
        )


def _cached_shapes(language: nn.Module, tokens: Tensor, argument: str, name: str) -> tuple[tuple[int, int], ...]:
    """Heads and width of each layer's key and value, as the model keeps them."""
    try:
        with torch.no_grad():
            cache = getattr(language(input_ids=tokens[:1, :2], use_cache=True), argument)
        found = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        if not found or any(tensor.dim() != 4 or tensor.shape[2] != 2 for tensor in found):
            raise TypeError("no keys and values (N, heads, positions, width)")
    except EdgeCompressError:
        raise
    except Exception as error:  # what another kind of cache has is for its model to say
        raise NotExportable(
            f"{name}: --kv-cache: a {type(language).__name__} keeps something else than keys and values of each layer: "
            f"{first_line(error)}{WITHOUT}"
        ) from error
    return tuple((tensor.shape[1], tensor.shape[3]) for tensor in found)


def _stepping(language: nn.Module, argument: str, names: Sequence[str]) -> nn.Module:
    """A copy whose ``forward`` takes the row ``names``: a class of its own, so that layers keep their names."""
    kind, made = type(language), copy.copy(language)
    few = [name for name in names if not name.startswith(PAST)]

    def forward(self: nn.Module, *inputs: Tensor) -> tuple[Tensor, ...]:
        from transformers import DynamicCache

        past = inputs[len(few) :]
        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        known: dict[str, Any] = {**dict(zip(few, inputs, strict=False)), argument: cache, "use_cache": True}
        found = kind.forward(self, **known)
        layers = getattr(found, argument).layers
        return (class_scores(found), *(tensor for layer in layers for tensor in (layer.keys, layer.values)))

    order = inspect.Parameter.POSITIONAL_OR_KEYWORD
    safe = [name.replace(".", "_") for name in names]
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, order) for name in ("self", *safe)])  # type: ignore[attr-defined]
    made.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    return made
