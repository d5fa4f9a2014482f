"""Moments of few inputs against those of all there are: what they say of inputs that were not seen."""

import pytest
import torch
from torch import nn

from edgecompress.calibrating.moments import FewMoments, Moments, collect
from edgecompress.calibrating.shrinking import Spread, shrinkage
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.projection import squared_outputs

SIZE = 96


def inputs(count, seed=0):
    """Inputs whose moments fall off as those of real layers do, the mean of a kind with the spread."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(9)))[0]
    return (1 + torch.randn(count, SIZE, generator=generator) * torch.arange(1, SIZE + 1) ** -0.7) @ axes


def second(rows):
    centred = (rows - rows.mean(0)).double()
    return centred.T @ centred / len(rows)


def moments_of(count):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(SIZE, SIZE))
    return model[0].weight.detach().double(), collect(model, (inputs(count),), ("0",))["0"]


@pytest.mark.parametrize("count", [16, 32, 64, 512])
@pytest.mark.parametrize("rank", [15, 31, 48])
def test_the_error_expected_of_few_inputs_is_that_on_others(count, rank):
    """Without shrinkage 16 inputs make rank 15 exact."""
    kernel, found = moments_of(count)
    all_of_them = second(inputs(20_000, seed=1))
    (predicted,) = DECOMPOSITIONS["svd"].errors(kernel, [(rank,)], found.centred[0])
    left = kernel - DECOMPOSITIONS["svd"].reconstruct(DECOMPOSITIONS["svd"].factors(kernel, (rank,), found.centred[0]))
    true = float(squared_outputs(left, all_of_them) / squared_outputs(kernel, all_of_them))
    assert 0.5 < predicted / true < 1.6


def test_many_inputs_are_trusted_and_one_alone_tells_nothing_of_it():
    assert [moments_of(count)[1].shrinkage.item() for count in (8192, 1)] == pytest.approx([0, 0], abs=0.01)
    few, more = (moments_of(count)[1].shrinkage.item() for count in (32, 256))
    assert 0 < more < few < 1


def test_the_noise_is_the_mean_squared_distance_from_the_moments_of_all():
    """Over 200 draws of 24 inputs in groups of 3."""
    truth, drawn, told = second(inputs(50_000, seed=1)), [], []
    for seed in range(2, 202):
        rows, spread = inputs(24, seed).double(), Spread(1)
        rows = rows - MEAN
        for group in rows.split(3):
            spread.add((group.T @ group)[None], 3, 3)
        sample = rows.T @ rows / 24
        told.append(float(spread.noise(sample[None])))
        drawn.append(float((sample - truth).square().sum()))
    assert sum(told) == pytest.approx(sum(drawn), rel=0.1)


MEAN = inputs(50_000, seed=1).double().mean(0)


def test_equal_moments_in_all_directions_need_no_shrinkage_and_pure_noise_is_shrunk_to_them():
    equal = torch.eye(4).double()[None]
    assert shrinkage(equal, torch.zeros(1).double()).item() == 0
    assert shrinkage(equal, torch.ones(1).double()).item() == 1
    assert shrinkage(torch.diag(torch.tensor([3.0, 1, 1, 1])).double()[None], torch.tensor([1e9])).item() == 1


def test_few_long_patches_stand_for_the_moments_of_them(monkeypatch):
    whole = moments_of(40)[1]
    monkeypatch.setattr("edgecompress.calibrating.moments.MOST_MATRIX", 8)
    few = moments_of(40)[1]
    assert isinstance(few, FewMoments)
    assert few.shrinkage.item() == pytest.approx(whole.shrinkage.item(), rel=1e-3)
    (sketch,) = few.centred
    torch.testing.assert_close(torch.eye(SIZE) @ sketch, whole.centred[0].float(), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(few.mean, whole.mean, rtol=1e-5, atol=1e-6)
    assert not few.steady().any()
    assert isinstance(moments_of(200)[1], Moments)


def test_few_long_patches_that_do_not_vary_are_told(monkeypatch):
    monkeypatch.setattr("edgecompress.calibrating.moments.MOST_MATRIX", 8)
    found = collect(nn.Sequential(nn.Linear(SIZE, 4)), (torch.ones(20, SIZE),), ("0",))["0"]
    assert found.steady().all()
    assert found.centred[0].level > 0
