"""EVBMF: planted ranks are found, noise is not taken for anything, and its constants are the published ones."""

import pytest
import torch
from torch import nn

from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.planning import plan
from edgecompress.selectors import Vbmf
from edgecompress.selectors.vbmf import evbmf_rank, threshold

SIZES = [(20, 20), (16, 144), (64, 576), (30, 1000), (200, 250)]
turned = pytest.mark.parametrize("transposed", [False, True], ids=["wide", "tall"])


def gaussian(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def planted(size, rank, noise, seed=0):
    """``rank`` components whose singular values are at least ``1 / noise`` times what noise alone reaches."""
    rows, columns = size
    left, right = (torch.linalg.qr(gaussian(side, max(rank, 1), seed=seed + side))[0][:, :rank] for side in size)
    strength = (rows**0.5 + columns**0.5) * torch.linspace(3, 1, rank, dtype=torch.float64)
    return (left * strength) @ right.T + noise * gaussian(rows, columns, seed=seed)


def either_way(matrix, *, transposed):
    return matrix.T if transposed else matrix


@turned
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("share", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.covering(2)
def test_a_planted_rank_is_recovered(size, share, seed, transposed):
    rank = max(1, int(share * min(size)))
    matrix = planted(size, rank, noise=0.3, seed=seed)
    assert evbmf_rank(either_way(matrix, transposed=transposed)) == rank


@turned
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_noise_has_rank_one(size, seed, transposed):
    """The least that a chain can have."""
    assert evbmf_rank(either_way(gaussian(*size, seed=seed), transposed=transposed)) == 1


@pytest.mark.parametrize(("ratio", "tau"), [(1, 2.5129), (0.5, 1.7826), (0.1, 0.8222), (0.01, 0.2829)])
def test_thresholds_are_the_exact_ones(ratio, tau):
    found, square = threshold(ratio)
    assert found == pytest.approx(tau, abs=5e-5)
    assert square == pytest.approx((1 + found) * (1 + ratio / found))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e6])
def test_the_scale_does_not_matter(size, scale):
    rank = min(size) // 5
    assert evbmf_rank(scale * planted(size, rank, noise=0.3)) == rank


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1), (2, 2), (5, 3)], ids=str)
def test_the_smallest_matrices_have_a_rank(shape):
    for matrix in (gaussian(*shape), torch.zeros(shape), torch.ones(shape)):
        assert 1 <= evbmf_rank(matrix) <= min(shape)


@turned
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_an_exact_rank_is_found_without_noise(rank, transposed):
    matrix = planted((24, 60), rank, noise=0)
    assert evbmf_rank(either_way(matrix, transposed=transposed)) == rank


@turned
@pytest.mark.parametrize("dead", [4, 12, 20])
def test_pruned_channels_do_not_count_as_silence(dead, transposed):
    """Rows of zeros would make everything else look like signal, or the noise look lower than it is."""
    matrix = planted((24, 200), 3, noise=0.3)
    padded = torch.cat([matrix[: 24 - dead], torch.zeros(dead, 200, dtype=torch.float64)])
    alive = evbmf_rank(matrix[: 24 - dead])
    assert evbmf_rank(either_way(padded, transposed=transposed)) == alive


def test_more_noise_never_finds_more():
    ranks = [evbmf_rank(planted((40, 200), 20, noise)) for noise in (0.05, 0.3, 1, 2, 5, 20)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] == 20
    assert ranks[-1] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_other_precisions_are_taken(dtype):
    assert evbmf_rank(planted((64, 576), 8, noise=0.3).to(dtype)) == 8


def planted_layer(*, groups=1):
    """A convolution whose both channel unfoldings have rank 5, with noise."""
    torch.manual_seed(0)
    layer = nn.Conv2d(groups * 32, groups * 40, 3, groups=groups)
    core = torch.randn(groups, 5, 5, 9)
    ends = torch.randn(groups, 40, 5), torch.randn(groups, 32, 5)
    weight = torch.einsum("gto,goik,gci->gtck", ends[0], core, ends[1]) / 10
    layer.weight.data = (weight + 0.02 * torch.randn_like(weight)).reshape(layer.weight.shape)
    return nn.Sequential(layer), (torch.randn(1, groups * 32, 8, 8),)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("multiple", "ranks"), [(1, (5, 5)), (4, (8, 8)), (8, (8, 8))])
def test_planned_ranks_are_those_of_the_unfoldings_rounded_up(groups, multiple, ranks):
    (layer,) = plan(*planted_layer(groups=groups), Vbmf(), methods=["tucker2"], multiple=multiple).layers
    assert layer.ranks == ranks


def test_the_cheapest_method_is_taken():
    model, inputs = planted_layer()
    (chosen,) = plan(model, inputs, Vbmf(), multiple=1).layers
    macs = []
    for method in ("svd", "spatial_svd", "tucker2", "hierarchical_tucker2"):
        made = plan(model, inputs, Vbmf(), methods=[method], multiple=1)
        macs += [(made.compressed.macs, layer.method) for layer in made.layers]
    assert chosen.method == min(macs)[1]


def test_a_layer_that_its_ranks_would_not_make_smaller_stays_dense():
    """Rank 2 of 8, rounded up to 8."""
    layer = nn.Linear(64, 8)
    layer.weight.data = planted((8, 64), 2, noise=0.3).float()
    assert plan(nn.Sequential(layer), (torch.randn(1, 64),), Vbmf(), multiple=1).layers[0].ranks == (2,)
    made = plan(nn.Sequential(layer), (torch.randn(1, 64),), Vbmf(), multiple=8)
    assert not made.layers
    assert made.skipped[0].reason == "no rank makes it smaller"


def test_a_method_without_unfoldings_is_left_out():
    assert not DECOMPOSITIONS["cp3"].unfoldings(torch.randn(4, 4, 3, 3))
    assert not plan(*planted_layer(), Vbmf(), methods=["cp3"]).layers
