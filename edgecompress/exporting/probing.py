"""Can a model be exported at all? Found before minutes of work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.fx
from torch import nn

from edgecompress.errors import ExportError, NotExportable, culprit
from edgecompress.exporting.preparing import prepared
from edgecompress.models import copied
from edgecompress.models.datasets import Inputs
from edgecompress.targets.programs import trace
from edgecompress.targets.refusing import BY_VALUES

WAYS_OUT = (
    "where its code chooses by values, use torch.where or torch.cond",
    "write that by other operators of PyTorch, or do it before or after the model",
)
COMMON = frozenset({"relu", "add", "mul", "flatten", "cat", "sigmoid", "tanh", "gelu", "silu", "max_pool2d", "getattr"})
"""Functions of PyTorch and of Python that every tracer knows."""


def check_traceable(model: nn.Module, inputs: Inputs, name: str) -> None:
    """Prove that PyTorch can trace ``model``, as every target asks: what it computes must not depend on values.

    Layers of PyTorch and common functions, as far as ``torch.fx`` sees them in no time, can be.

    Raises:
        NotExportable: with the first thing that cannot be traced, and its line.
    """
    if _is_common(model):
        return
    with refusing_before_work(name):
        trace(prepared(model, inputs).model, tuple(tensor.contiguous() for tensor in inputs))


def _is_common(model: nn.Module) -> bool:
    """Whether a model consists of PyTorch's layers and common functions."""
    try:
        graph = torch.fx.Tracer().trace(copied(model))
    except Exception:  # much of what torch.fx cannot trace is traced by torch.export
        return False
    calls = (node for node in graph.nodes if node.op in ("call_function", "call_method"))
    return all(getattr(node.target, "__name__", node.target) in COMMON for node in calls)


@contextmanager
def refusing_before_work(name: str) -> Iterator[None]:
    """What an export of the MODEL ``name`` raises is raised as what it is before any work.

    Raises:
        NotExportable: with the line of the user's code.
    """
    try:
        yield
    except NotExportable:  # says it all
        raise
    except ExportError as error:
        way_out = WAYS_OUT[BY_VALUES not in str(error)]
        raise NotExportable(f"{name}: {error}{culprit(error)}; {way_out}") from error
