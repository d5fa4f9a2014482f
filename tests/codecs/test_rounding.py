"""Rounding while training: its gradients, its first step, and the length it estimates."""

from __future__ import annotations

import pytest
import torch

from edgecompress.codecs.rounding import Rounding, best_step


def factor(count: int = 600) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("levels", [3, 7, 15, 255])
def test_rounded_numbers_are_codes_times_the_step(levels: int) -> None:
    rounding, values = Rounding(levels, factor()), factor()
    codes = rounding.codes(values)
    assert torch.equal(codes, codes.round())
    assert codes.abs().max() <= levels // 2
    assert torch.allclose(rounding(values), codes * rounding.step)
    assert len(codes.unique()) <= levels


def test_the_first_step_is_the_best_of_a_fine_grid() -> None:
    values = factor()
    for levels in (3, 7, 15):
        largest = levels // 2

        def error(step: float, largest: int = largest) -> float:
            return float(((values / step).clamp(-largest, largest).round() * step - values).square().mean())

        fine = min(error(float(step)) for step in torch.linspace(0.02, 3, 2_000))
        assert error(float(best_step(values, levels))) < 1.1 * fine


def test_gradients_pass_straight_through_inside_and_stop_outside() -> None:
    rounding = Rounding(7, factor())
    with torch.no_grad():
        rounding.step.fill_(0.5)
    values = torch.tensor([0.3, -0.9, 5.0, -7.0], requires_grad=True)
    rounding(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 0, 0]
    scaled = torch.tensor([0.3, -0.9]) / 0.5
    wanted = float((scaled.round() - scaled).sum()) + 3 - 3
    assert rounding.step.grad is not None
    assert float(rounding.step.grad) == pytest.approx(wanted, abs=1e-6)


def test_whole_numbers_have_the_length_of_their_histogram() -> None:
    rounding = Rounding(7, factor())
    with torch.no_grad():
        rounding.step.fill_(1.0)
    codes = torch.tensor([0.0] * 8 + [1.0] * 4 + [-3.0] * 4)
    assert float(rounding.bits(codes).detach()) == pytest.approx(16 * 1.5, rel=1e-5)


def test_the_lengths_gradient_is_that_of_finite_differences() -> None:
    rounding = Rounding(7, factor()).double()
    with torch.no_grad():
        rounding.step.fill_(0.6)
    values = (factor(40).double() * 0.9).requires_grad_()
    assert torch.autograd.gradcheck(rounding.bits, (values,), eps=1e-7, atol=1e-4)


def test_descending_the_length_empties_levels() -> None:
    rounding, values = Rounding(15, factor()), factor().requires_grad_()
    optimizer = torch.optim.Adam([values], 0.02)
    before = float(rounding.bits(values).detach())
    for _ in range(100):
        optimizer.zero_grad()
        rounding.bits(values).backward()
        optimizer.step()
    assert float(rounding.bits(values).detach()) < 0.7 * before
    assert len(rounding.codes(values).unique()) < len(rounding.codes(factor()).unique())


def test_strain_pulls_towards_the_nearest_level_and_leaves_the_step() -> None:
    rounding = Rounding(7, factor())
    with torch.no_grad():
        rounding.step.fill_(0.5)
    values = torch.tensor([0.6, 1.0, -0.4, 9.0], requires_grad=True)
    strain = rounding.strain(values)
    strain.backward()
    assert float(strain.detach()) == pytest.approx(0.2**2 + 0.2**2, abs=1e-6)
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([2 * 0.2 / 0.5, 0, 2 * 0.2 / 0.5, 0], abs=1e-5)
    assert rounding.step.grad is None
