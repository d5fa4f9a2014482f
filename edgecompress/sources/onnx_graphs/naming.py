"""Paths of layers and parameters, made of the names in a file."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from edgecompress.sources.onnx_graphs.network import Scope
from edgecompress.sources.onnx_operators.base import Node

LONGEST = 120
GENERATED = re.compile(r"onnx::|val_\d|\d")
"""How the names begin that exporters make up for weights."""


def path_of(node: Node) -> str:
    """The path a layer should have: that of its weight where an exporter kept it (``conv1.weight``), else its name."""
    weight = node.inputs[1] if len(node.inputs) > 1 else ""
    stem, dot, last = weight.rpartition(".")
    if dot and stem and last in ("weight", "weight_v") and not GENERATED.match(weight):
        return cleaned(stem)
    parts = cleaned(node.name).split(".")
    if len(parts) > 1 and parts[-1].rpartition("_")[0] in ("", node.kind) and node.kind in parts[-1]:
        parts = parts[:-1]  # /conv1/Conv, and /conv1/Conv_1
    return ".".join(parts)


def cleaned(text: str) -> str:
    """A dotted path of letters, digits and underscores."""
    parts = [re.sub(r"\W", "_", part, flags=re.ASCII) for part in re.split(r"[./]", text[:LONGEST])]
    return ".".join(part for part in parts if part) or "unnamed"


def place(root: nn.Module, wanted: str) -> tuple[nn.Module, str, str]:
    """Where something new can be put: the module, the name in it, and the path of both.

    A path that is taken, or leads through a layer, gets a number.
    """
    for path in (wanted, *(f"{wanted}_{number}" for number in range(2, 100_000))):
        scope, name = _scope(root, path.split(".")[:-1]), path.rpartition(".")[2]
        if scope is not None and not hasattr(scope, name):
            return scope, name, path
    return place(root, f"{wanted.replace('.', '_')}_")


def _scope(root: nn.Module, parts: list[str]) -> nn.Module | None:
    """The scope of a path, made where it is not there; None where it leads through something else."""
    scope = root
    for part in parts:
        if part not in scope._modules:
            if hasattr(scope, part):
                return None
            scope.add_module(part, Scope())
        inner = scope._modules[part]
        if type(inner) is not Scope:
            return None
        scope = inner
    return scope


def counted(names: Iterable[str]) -> dict[str, int]:
    """How often each name is used."""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return counts
