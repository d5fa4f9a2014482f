"""The decompositions against implementations that are not ours, and against the theorems they rest on."""

from itertools import product

import pytest
import torch
from tensorly.decomposition import partial_tucker, tensor_train
from torch import nn

from edgecompress.decompositions import DECOMPOSITIONS

SVD, TUCKER2, TRAIN = (DECOMPOSITIONS[name] for name in ("svd", "tucker2", "tensor_train"))
SHAPES = [(12, 20), (20, 12), (16, 24, 1, 1), (16, 12, 5), (16, 12, 3, 3), (8, 16, 5, 3), (40, 2, 3, 3), (6, 1, 1, 7)]
KERNELS = [((16, 12, 3, 3), (6, 5)), ((8, 16, 5, 3), (3, 4)), ((24, 8, 1, 7), (14, 2)), ((16, 12, 5), (4, 6))]


def kernel(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative_error(weight, other):
    return float((weight - other).pow(2).sum() / weight.pow(2).sum())


def approximation(method, weight, ranks):
    return method.reconstruct(method.factors(weight, ranks))


def layer_of(weight):
    """A bare layer that can carry ``weight``."""
    outputs, inputs, *taps = weight.shape
    kinds = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d}
    return kinds[len(taps)](inputs, outputs, *([tuple(taps)] if taps else []))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_svd_is_the_truncated_svd_of_lapack(shape):
    weight = kernel(*shape)
    left, values, right = torch.linalg.svd(weight.flatten(1), full_matrices=False)
    for rank in range(1, len(values) + 1):
        expected = (left[:, :rank] * values[:rank]) @ right[:rank]
        torch.testing.assert_close(approximation(SVD, weight, (rank,)), expected.reshape(shape))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_svd_splits_the_singular_values_evenly(shape):
    reduce, expand = SVD.factors(kernel(*shape), (1,))
    assert reduce.norm() == pytest.approx(expand.norm())


def cut_off(matrix, rank):
    """Eckart and Young: the squared singular values past ``rank``, as a share of all of them."""
    energy = torch.linalg.svdvals(matrix).pow(2)
    return float(energy[rank:].sum() / energy.sum())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_svd_reaches_the_bound_of_eckart_and_young(shape):
    weight = kernel(*shape)
    for rank in range(1, min(weight.flatten(1).shape) + 1):
        error = relative_error(weight, approximation(SVD, weight, (rank,)))
        assert error == pytest.approx(cut_off(weight.flatten(1), rank), abs=1e-12)


@pytest.mark.parametrize(("shape", "ranks"), KERNELS, ids=str)
def test_tucker2_stays_above_the_bounds_of_eckart_and_young_of_both_unfoldings(shape, ranks):
    weight = kernel(*shape)
    error = relative_error(weight, approximation(TUCKER2, weight, ranks))
    by_outputs, by_inputs = weight.flatten(1), weight.transpose(0, 1).flatten(1)
    least, most = cut_off(by_outputs, ranks[0]), cut_off(by_inputs, ranks[1])
    assert max(least, most) - 1e-12 <= error <= least + most + 1e-12


@pytest.mark.parametrize(("shape", "ranks"), KERNELS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_tucker2_is_within_a_percent_of_tensorly_run_to_convergence(shape, ranks, seed):
    """On noise, where alternating least squares has the longest way to go."""
    weight = kernel(*shape, seed=seed)
    (core, ends), _ = partial_tucker(weight.numpy(), list(ranks), modes=[0, 1], n_iter_max=100, tol=1e-8)
    core, out, into = (torch.from_numpy(array) for array in (core, *ends))
    theirs = relative_error(weight, torch.einsum("oi...,to,ci->tc...", core, out, into))
    assert relative_error(weight, approximation(TUCKER2, weight, ranks)) <= 1.01 * theirs


@pytest.mark.parametrize(("shape", "ranks"), KERNELS, ids=str)
def test_tucker2_reconstructs_the_sum_over_both_ranks(shape, ranks):
    reduce, core, expand = TUCKER2.factors(kernel(*shape), ranks)
    expected = sum(
        torch.einsum("t,c,...->tc...", expand.flatten(1)[:, o], reduce.flatten(1)[i], core[o, i])
        for o, i in product(range(ranks[0]), range(ranks[1]))
    )
    torch.testing.assert_close(TUCKER2.reconstruct((reduce, core, expand)), expected)


@pytest.mark.parametrize(("shape", "ranks"), KERNELS, ids=str)
def test_the_ends_of_tucker2_are_orthonormal(shape, ranks):
    reduce, _, expand = (factor.flatten(1) for factor in TUCKER2.factors(kernel(*shape), ranks))
    torch.testing.assert_close(reduce @ reduce.T, torch.eye(ranks[1], dtype=torch.float64))
    torch.testing.assert_close(expand.T @ expand, torch.eye(ranks[0], dtype=torch.float64))


TRAINS = [((12, 20), (5, 4), (5, 2)), ((30, 12), (4, 3), (7, 3)), ((16, 35, 1, 1), (7, 5), (9, 2))]
trains = pytest.mark.parametrize(("shape", "modes", "ranks"), TRAINS, ids=str)


@trains
def test_tensor_train_is_the_one_of_tensorly(shape, modes, ranks):
    weight = kernel(*shape)
    theirs = tensor_train(weight.reshape(shape[0], *modes).numpy(), [1, *ranks, 1]).to_tensor()
    torch.testing.assert_close(approximation(TRAIN, weight, ranks), torch.from_numpy(theirs).reshape(shape))


@trains
def test_tensor_train_loses_what_its_two_cuts_cut_off(shape, modes, ranks):
    """Oseledets 2011, theorem 2.2: at least the larger cut, at most both."""
    weight = kernel(*shape)
    error = relative_error(weight, approximation(TRAIN, weight, ranks))
    first, second = cut_off(weight.flatten(1), ranks[0]), cut_off(weight.reshape(-1, modes[1]), ranks[1])
    assert max(first, second) - 1e-12 <= error <= first + second + 1e-12
    assert TRAIN.errors(weight, [ranks]) == [pytest.approx(error)]


@trains
def test_the_ends_of_tensor_train_are_orthonormal(shape, modes, ranks):
    reduce, core, expand = (factor.flatten(1) for factor in TRAIN.factors(kernel(*shape), ranks))
    torch.testing.assert_close(reduce @ reduce.T, torch.eye(ranks[1], dtype=torch.float64))
    torch.testing.assert_close(expand.T @ expand, torch.eye(ranks[0], dtype=torch.float64))
    assert core.shape == (ranks[0], modes[0] * ranks[1])


FITTED = ("cp3", "cp4")
"""Methods without a start that is exact where it can be; ``test_cp.py`` plants ranks that can be found."""

SUPPORTED = [
    pytest.param(method, shape, id=f"{name} {shape}")
    for name, method in DECOMPOSITIONS.items()
    for shape in SHAPES
    if name not in FITTED and method.supports(layer_of(kernel(*shape)))
]


@pytest.mark.parametrize(("method", "shape"), SUPPORTED)
def test_a_weight_that_was_built_at_some_ranks_is_recovered_at_them(method, shape):
    layer = layer_of(kernel(*shape))
    ranks = tuple((rank + 2) // 3 for rank in method.max_ranks(layer))
    links = [link for link in method.chain(layer, ranks) if hasattr(link, "weight")]
    planted = [kernel(*link.weight.shape, seed=seed) for seed, link in enumerate(links)]
    weight = method.reconstruct(tuple(planted))
    assert weight.shape == shape
    assert relative_error(weight, approximation(method, weight, ranks)) < 1e-14
    assert method.errors(weight, [ranks])[0] < 1e-12
