"""Modules that are a Linear under another name, such as GPT-2's ``Conv1D`` with its weight the other way round.

What they are shows in what they give: on inputs of several shapes and sizes of numbers, in eval and in training mode,
that is the input times the weight, or times its transpose, plus the bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecompress.adapters.base import Unadaptable, alike, linear_of
from edgecompress.adapters.subclass import base_of, computes_itself

SHAPES = ((3,), (2, 3))
SCALES = (0.0, 1.0, 100.0)


class LinearLike:
    """A weight, perhaps a bias, and nothing else."""

    name = "linear_like"
    summary = "modules that compute a Linear themselves, GPT-2's transposed Conv1D among them: an nn.Linear"
    notice = ""

    def recognizes(self, module: nn.Module) -> bool:
        """By what it holds: one matrix and at most one vector. PyTorch's own layers are what they are."""
        if next(module.children(), None) or next(module.buffers(), None) is not None or _is_known(module):
            return False
        own = dict(module.named_parameters())
        weight, bias = own.get("weight"), own.get("bias")
        held = weight is not None and weight.dim() == 2 and set(own) <= {"weight", "bias"}
        return held and (bias is None or bias.dim() == 1) and all(map(torch.is_floating_point, own.values()))

    def adapt(self, module: nn.Module) -> nn.Module:
        """The Linear, of the same parameters where its weight is (out, in).

        Raises:
            Unadaptable: it computes something else.
        """
        own = dict(module.named_parameters())
        weight, bias = own["weight"], own.get("bias")
        for matrix in (weight, weight.T):
            if (bias is None or len(bias) == len(matrix)) and _is_product(module, matrix, bias):
                return linear_of(matrix, bias).train(module.training)
        raise Unadaptable(f"{type(module).__name__}: its forward is its own, and no product with its weight")


def _is_known(module: nn.Module) -> bool:
    """A layer of PyTorch's, but for subclasses of Linear with a forward of their own."""
    base = base_of(module)
    if base is nn.Linear:
        return not computes_itself(module, base)
    return base is not None or type(module).__module__.startswith("torch.") or isinstance(module, nn.Embedding)


def _is_product(module: nn.Module, matrix: Tensor, bias: Tensor | None) -> bool:
    """Whether a module gives the product with (out, in), on all that it is tried on."""
    mode = module.training
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return all(
                alike(module.train(training)(given.clone()), functional.linear(given, matrix, bias))
                for training in (False, True)
                for given in _inputs(matrix)
            )
    except Exception:  # its code may do anything with an input of another width
        return False
    finally:
        module.train(mode)


def _inputs(matrix: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(*shape, matrix.shape[1]) for shape in SHAPES]
    return [scale * torch.randn(shape, generator=generator).to(matrix) for shape in shapes for scale in SCALES]
