"""Rounding while training: its gradients, its first step, and the length it estimates."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from edgecompress.codecs.rounding import SLOWER, Rounding, best_step
from edgecompress.storing import frozen_fraction


def factor(count: int = 600) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1))


def with_step(levels: int, step: float, values: torch.Tensor) -> Rounding:
    rounding = Rounding(levels, values.detach())
    rounding.initial_step.fill_(step)
    return rounding


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
    values = torch.tensor([0.3, -0.9, 5.0, -7.0], requires_grad=True)
    rounding = with_step(7, 0.5, values)
    rounding(values).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 1, 0, 0]
    scaled = torch.tensor([0.3, -0.9]) / 0.5
    wanted = float((scaled.round() - scaled).sum()) + 3 - 3
    assert rounding.log_step.grad is not None
    assert float(rounding.log_step.grad) == pytest.approx(wanted * 0.5 * SLOWER, abs=1e-6)


def test_whole_numbers_have_the_length_of_their_histogram() -> None:
    codes = torch.tensor([0.0] * 8 + [1.0] * 4 + [-3.0] * 4)
    rounding = with_step(7, 1.0, codes)
    assert float(rounding.bits(codes).detach()) == pytest.approx(16 * 1.5, rel=1e-5)


def test_the_lengths_gradient_is_that_of_finite_differences() -> None:
    values = (factor(40).double() * 0.9).requires_grad_()
    rounding = with_step(7, 0.6, values).double()
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


def test_dampening_pulls_towards_the_nearest_level_and_leaves_the_step() -> None:
    values = torch.tensor([0.6, 1.0, -0.4, 9.0], requires_grad=True)
    rounding = with_step(7, 0.5, values)
    loss = rounding.dampening_loss(values)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.2**2 + 0.2**2, abs=1e-6)
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([2 * 0.2 / 0.5, 0, 2 * 0.2 / 0.5, 0], abs=1e-5)
    assert rounding.log_step.grad is None


def test_frozen_numbers_are_the_nearest_and_stay_whatever_becomes_of_the_factor() -> None:
    values = torch.tensor([0.05, 1.4, -0.9, 2.45, 9.0])
    rounding = with_step(7, 1.0, values)
    rounding.freeze(0.5, values)
    assert rounding.frozen_mask.tolist() == [True, False, False, False, True]
    moved = (values + 1.2).requires_grad_()
    assert rounding.codes(moved).tolist() == [0, 3, 0, 3, 3]
    rounding(moved).sum().backward()
    assert moved.grad is not None
    assert moved.grad.tolist() == [0, 1, 1, 0, 0]
    rounding.freeze(0.8, moved)
    rounding.freeze(0.2, moved)
    assert rounding.frozen_mask.tolist() == [True, False, True, True, True]
    assert rounding.codes(values * 0).tolist() == [0, 0, 0, 3, 3]
    rounding.freeze(1.0, moved)
    assert float(rounding.dampening_loss(values)) == 0


def test_numbers_are_frozen_from_none_to_all_before_the_end() -> None:
    shares = [frozen_fraction(epoch / 20) for epoch in range(21)]
    assert shares[:9] == [0] * 9
    assert shares[19:] == [1, 1]
    assert all(0 < share < later < 1 for share, later in pairwise(shares[9:19]))
