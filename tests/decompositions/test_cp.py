"""CP: against tensorly, against planted terms, and on kernels whose best terms run away."""

import warnings

import numpy as np
import pytest
import torch
from tensorly import cp_to_tensor
from tensorly.decomposition import parafac
from torch import nn

from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.cp_als import (
    SLACK,
    balanced,
    corrected,
    error_bounds,
    exact_rank,
    fitted,
    path,
    slice_terms,
    summed,
    terms_of,
    without,
)
from edgecompress.sources import resolve

CP3, CP4 = DECOMPOSITIONS["cp3"], DECOMPOSITIONS["cp4"]
TENSORS = [(12, 10, 9), (6, 16, 5), (3, 20, 4), (10, 8, 3, 3), (12, 9, 5, 3), (1, 6, 3, 5), (7, 2, 3, 3)]
PLANTED = [((16, 12, 9), 4), ((16, 12, 9), 9), ((12, 16, 5), 5), ((16, 12, 3, 3), 3), ((10, 8, 5, 4), 4)]
REAL = ["layer1.0.conv2", "layer2.0.conv2"]

both = pytest.mark.parametrize("method", [CP3, CP4], ids=["cp3", "cp4"])


def sensitivity(terms):
    """Expected squared change of the sum, to first order, for noise of variance 1 on every number of ``terms``."""
    squares = [mode.pow(2).sum(0) for mode in terms]
    return sum(len(mode) * float(without(squares, index).sum()) for index, mode in enumerate(terms))


def normal(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def planted(shape, rank):
    return tuple(normal(size, rank, seed=seed) for seed, size in enumerate(shape))


def relative_error(tensor, other):
    return float((tensor - other).pow(2).sum() / tensor.pow(2).sum())


def theirs(tensor, rank):
    """100 alternations of tensorly from the SVD, its default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it pads a mode smaller than the rank with noise and says so
        found = parafac(tensor.numpy(), rank, n_iter_max=100, tol=1e-8, init="svd", random_state=0)
    return torch.from_numpy(cp_to_tensor(found))


@pytest.fixture(scope="module")
def kernels():
    layers = dict(resolve("resnet20").model().named_modules())
    return {name: layers[name].weight.detach().double() for name in REAL}


# ------------------------------------------------------------------------------------------------ the numbers


@pytest.mark.parametrize("shape", TENSORS, ids=str)
def test_terms_sum_to_what_tensorly_says(shape):
    terms = planted(shape, 5)
    expected = cp_to_tensor((np.ones(5), [mode.numpy() for mode in terms]))
    torch.testing.assert_close(summed(terms), torch.from_numpy(expected))


@both
def test_the_factors_stand_for_what_tensorly_says(method):
    reduce, *middle, expand = method.factors(normal(8, 6, 5, 3), (7,))
    modes = [expand.flatten(1), reduce.flatten(1).T, *(link.flatten(1).T for link in middle)]
    expected = cp_to_tensor((np.ones(7), [mode.numpy() for mode in modes])).reshape(8, 6, 5, 3)
    torch.testing.assert_close(method.reconstruct((reduce, *middle, expand)), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", TENSORS, ids=str)
def test_slice_terms_are_orthogonal_sorted_and_sum_to_the_tensor(shape):
    tensor = normal(*shape)
    terms, energy = slice_terms(tensor)
    torch.testing.assert_close(summed(terms), tensor)
    inner = torch.stack([mode.T @ mode for mode in terms]).prod(0)
    torch.testing.assert_close(inner, energy.diag())
    assert terms[0].shape[1] == exact_rank(shape)
    assert energy.tolist() == sorted(energy.tolist(), reverse=True)


@pytest.mark.parametrize("shape", TENSORS, ids=str)
def test_the_sensitivity_is_what_noise_does(shape):
    """The mean over noise, as Phan et al. define it, here by the derivative by every number of every factor."""
    terms = planted(shape, 3)
    jacobians = torch.autograd.functional.jacobian(lambda *modes: summed(modes), terms)
    assert sensitivity(terms) == pytest.approx(sum(float(part.pow(2).sum()) for part in jacobians))


@pytest.mark.parametrize("shape", TENSORS, ids=str)
def test_balanced_terms_have_one_norm_in_all_modes(shape):
    terms = planted(shape, 4)
    even = balanced(terms)
    torch.testing.assert_close(summed(even), summed(terms))
    for mode in even:
        torch.testing.assert_close(mode.norm(dim=0), even[0].norm(dim=0))
    assert all(torch.isfinite(mode).all() for mode in balanced(tuple(mode * 0 for mode in terms)))


# ---------------------------------------------------------------------------------------------------- the fit


@pytest.mark.parametrize(("shape", "rank"), PLANTED, ids=str)
def test_planted_terms_are_found(shape, rank):
    tensor = summed(planted(shape, rank))
    assert relative_error(tensor, summed(terms_of(tensor, rank))) < 1e-8


@pytest.mark.parametrize(("shape", "rank"), PLANTED, ids=str)
def test_planted_terms_are_found_under_noise(shape, rank):
    clean = summed(planted(shape, rank))
    tensor = clean + 1e-3 * normal(*shape, seed=99)
    found, noise = summed(terms_of(tensor, rank)), relative_error(tensor, clean)
    assert relative_error(tensor, found) < (1 + SLACK) * noise
    assert relative_error(clean, found) < noise


@pytest.mark.parametrize("part", [0.05, 0.15, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", [(16, 16, 9), (24, 12, 5), (16, 12, 3, 3)], ids=str)
@pytest.mark.covering(1)
def test_noise_is_fitted_as_well_as_by_tensorly(shape, part):
    """In the mean over three kernels: on noise every start ends in an optimum of its own."""
    rank, ours, other = max(1, int(part * exact_rank(shape))), 0.0, 0.0
    for seed in range(3):
        tensor = normal(*shape, seed=seed)
        ours += relative_error(tensor, summed(terms_of(tensor, rank)))
        other += relative_error(tensor, theirs(tensor, rank))
    assert ours <= 1.01 * other


@pytest.mark.parametrize("part", [0.06, 0.15, pytest.param(0.3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("modes", [3, 4])
@pytest.mark.parametrize("name", REAL)
def test_kernels_are_fitted_as_well_as_by_tensorly(kernels, name, modes, part):
    tensor = kernels[name].flatten(modes - 1)
    rank = int(part * exact_rank(tensor.shape))
    reached = relative_error(tensor, summed(terms_of(tensor, rank)))
    assert reached <= 1.01 * relative_error(tensor, theirs(tensor, rank))


@pytest.mark.parametrize("shape", TENSORS, ids=str)
def test_the_bound_of_the_error_never_grows_and_is_kept_at_every_rank(shape):
    tensor, ranks = normal(*shape), range(1, exact_rank(shape) + 1)
    bounds = error_bounds(tensor, ranks)
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[-1] == 0
    for rank in ranks[:: max(1, len(ranks) // 3)]:
        assert relative_error(tensor, summed(terms_of(tensor, rank))) <= bounds[rank - 1] + 1e-12
        assert error_bounds(tensor, [rank]) == [bounds[rank - 1]]


def test_the_global_generator_is_neither_read_nor_moved():
    tensor = normal(8, 6, 9)
    torch.manual_seed(1)
    first, state = terms_of(tensor, 7), torch.get_rng_state()
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, b in zip(first, terms_of(tensor, 7), strict=True))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


# --------------------------------------------------------------------------------------------- the correction


def running_away():
    """The sum of three terms that two terms approach only by growing without bound and cancelling (de Silva & Lim)."""
    a, b = nn.functional.normalize(normal(2, 12), dim=1)
    orders = ((a, a, b), (a, b, a), (b, a, a))
    return sum(torch.einsum("i,j,k->ijk", *order) for order in orders) + 0.01 * normal(12, 12, 12, seed=1)


def plain_fit(tensor, rank):
    """Alternating least squares alone."""
    start = min(path(tensor, rank), key=lambda fit: fit.error(rank)).extended(rank)
    return balanced(fitted(tensor, balanced(start), 100))


def test_terms_that_run_away_are_called_back():
    tensor = running_away()
    plain, tame = plain_fit(tensor, 2), terms_of(tensor, 2)
    assert plain[0].norm() * plain[1].norm() * plain[2].norm() > 3 * tensor.norm()  # they do cancel
    assert sensitivity(tame) < 0.95 * sensitivity(plain)
    assert relative_error(tensor, summed(tame)) <= (1 + SLACK) * relative_error(tensor, summed(plain)) * (1 + 1e-9)


@pytest.mark.parametrize("modes", [3, 4])
@pytest.mark.parametrize("name", REAL)
def test_kernels_lose_sensitivity_for_half_a_percent_of_error(kernels, name, modes):
    tensor = kernels[name].flatten(modes - 1)
    rank = exact_rank(tensor.shape) // 6
    plain, tame = plain_fit(tensor, rank), terms_of(tensor, rank)
    assert sensitivity(tame) < 0.8 * sensitivity(plain)
    assert relative_error(tensor, summed(tame)) <= (1 + SLACK) * relative_error(tensor, summed(plain)) * (1 + 1e-9)


def test_the_correction_ends_at_its_bound():
    tensor = normal(10, 8, 9)
    plain = plain_fit(tensor, 12)
    error = relative_error(tensor, summed(plain))
    for worst, expected in ((error * float(tensor.pow(2).sum()), 1), (float("inf"), 1 + SLACK)):
        tame = corrected(tensor, plain, worst)
        assert relative_error(tensor, summed(tame)) == pytest.approx(expected * error, rel=1e-5)


# -------------------------------------------------------------------------------------------------- odd cases

ODD = {
    "a slice of zeros": normal(8, 6, 3, 3) * torch.tensor([1.0, 0, 1])[:, None],
    "an output of zeros": normal(8, 6, 3, 3) * (torch.arange(8) > 2)[:, None, None, None],
    "rank one": summed(planted((8, 6, 3, 3), 1)),
    "one number": normal(8, 6, 3, 3) * 0 + 1,
    "one output": normal(1, 6, 3, 3),
    "one input": normal(6, 1, 3, 3),
    "one of each": normal(1, 1, 3, 2),
    "tiny": normal(8, 6, 3, 3) * 1e-30,
    "huge": normal(8, 6, 3, 3) * 1e30,
}


@both
@pytest.mark.parametrize("weight", ODD.values(), ids=ODD)
@pytest.mark.covering(1)
def test_odd_kernels_give_numbers_at_every_rank(method, weight):
    (most,) = method.max_ranks(nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:]))
    before = float("inf")
    for rank in sorted({1, 2, max(1, most // 2), most}):
        factors = method.factors(weight, (min(rank, most),))
        error = relative_error(weight, method.reconstruct(factors))
        assert all(torch.isfinite(factor).all() for factor in factors)
        assert error <= min(before * (1 + 1e-6), method.errors(weight, [(min(rank, most),)])[0]) + 1e-12
        before = error
    assert before < 1e-20


@both
def test_one_term_is_enough_for_a_kernel_of_rank_one(method):
    weight = ODD["rank one"]
    assert relative_error(weight, method.reconstruct(method.factors(weight, (1,)))) < 1e-20


@both
@pytest.mark.parametrize("layer", [nn.Linear(8, 8), nn.Conv2d(8, 8, 1), nn.Conv1d(8, 8, 1)], ids=repr)
def test_matrices_are_left_to_svd(method, layer):
    assert "use svd" in method.supports(layer).reason
