"""What float32 itself does is no error of a file; anything more is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf, nan

import pytest
import torch
from torch import Tensor, nn

from edgecompress.artifacts import Parity
from edgecompress.exporting.outputs import run_model
from edgecompress.exporting.tolerances import MOST_OWN, OWN, TOLERANCES, allowed_error, float32_error
from tests.nets import Net

FP32, APART = TOLERANCES["fp32"], Parity(1, 0.0, 0.0, scale=10.0)
USUAL = FP32.relative * APART.scale


def never() -> float:
    raise AssertionError("PyTorch need not run in float64")


@pytest.mark.parametrize("error", [0.0, 0.9 * USUAL, 1.1 * MOST_OWN * USUAL, inf, nan])
def test_pytorchs_own_error_is_asked_for_only_where_it_can_decide(error: float) -> None:
    assert allowed_error(FP32, replace(APART, max_abs_error=error), never) == USUAL


@pytest.mark.parametrize(
    ("own", "allowed"), [(0.0, USUAL), (0.1 * USUAL, USUAL), (USUAL, OWN * USUAL), (99 * USUAL, MOST_OWN * USUAL)]
)
def test_a_file_may_err_as_pytorch_does_in_float32(own: float, allowed: float) -> None:
    assert allowed_error(FP32, replace(APART, max_abs_error=2 * USUAL), lambda: own) == pytest.approx(allowed)


def test_the_own_error_is_the_distance_from_float64() -> None:
    x = torch.randn(2, 3, 200, generator=torch.Generator().manual_seed(0))
    net = Net(lambda _net, x: (x - 4096.0 + 4096.0, x > 0), lin=nn.Linear(1, 1))
    lost = float(((x - 4096.0 + 4096.0).double() - x.double()).abs().max())
    assert lost > 1e-4
    assert float32_error(run_model, net, (x,)) == pytest.approx(lost)
    assert float32_error(run_model, nn.Identity(), (x,)) == 0
    assert net.lin.weight.dtype == x.dtype == torch.float32


@pytest.mark.parametrize("broken", [lambda _net, x: x.to(torch.float32) @ torch.ones(4, 1) + fails(x)])
def test_a_model_of_float32_alone_has_no_known_error(broken: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert float32_error(run_model, Net(broken), (torch.ones(2, 4),)) == 0


def fails(x: Tensor) -> float:
    """As a kernel of the user's own does."""
    if x.dtype == torch.float64:
        raise RuntimeError("float32 alone")
    return 0.0
