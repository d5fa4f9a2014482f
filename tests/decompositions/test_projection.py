"""Factors in the metric of a layer's inputs: what the closed forms, LAPACK and plain alternation say of them."""

from functools import cache
from itertools import product
from math import ceil, prod

import pytest
import torch
from torch import nn

from edgecompress.calibrating.patches import patches
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.decomposing import fitted
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.kernels import kernels
from edgecompress.decompositions.projection import leading_directions, root_and_inverse, solved

METHODS = ("svd", "spatial_svd", "tucker2", "hierarchical_tucker2")
SHAPES = [(12, 10, 3, 3), (8, 12, 5, 3), (6, 3, 3, 3), (16, 4, 2, 2)]
LAYERS = [
    nn.Conv2d(10, 12, 3, padding=1),
    nn.Conv2d(8, 12, 3, stride=2, groups=2),
    nn.Conv1d(8, 10, 5),
    nn.Linear(20, 12),
    nn.ConvTranspose2d(6, 8, 3, stride=2, groups=2),
]

at_all_shapes = pytest.mark.parametrize(
    "shape", [pytest.param(s, marks=pytest.mark.slow) if s == SHAPES[0] else s for s in SHAPES], ids=str
)
for_every_metric = pytest.mark.parametrize("metric", ["correlated", "rank-deficient", "dead channels"])


def named(*methods):
    return pytest.mark.parametrize("method", [DECOMPOSITIONS[name] for name in methods], ids=methods)


for_every_method = named(*METHODS)


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def kernel_of(shape, seed=0):
    """Singular values that fall, as those of trained layers do."""
    left, _, right = torch.linalg.svd(random(*shape, seed=seed).flatten(1), full_matrices=False)
    return (left * 0.8 ** torch.arange(left.shape[1])) @ right


def problem(shape, metric="correlated", seed=0):
    """A kernel and the second moments of its patches, with eigenvalues over three orders of magnitude."""
    size = prod(shape[1:])
    kernel = kernel_of(shape, seed).reshape(shape)
    mixing = random(size, size, seed=seed + 1) * torch.logspace(0, -1.5, size, dtype=torch.float64)
    if metric == "rank-deficient":
        mixing[:, size // 3 :] = 0
    if metric == "dead channels":
        mixing.unflatten(0, shape[1:])[0] = 0
    return kernel, mixing @ mixing.T / size


def output_error(kernel, other, moments):
    """tr((W - W') S (W - W')^T) over tr(W S W^T), written out."""
    off, whole = (kernel - other).flatten(1), kernel.flatten(1)
    return float(torch.trace(off @ moments @ off.T) / torch.trace(whole @ moments @ whole.T))


def reached(method, kernel, ranks, moments, metric=None):
    return output_error(kernel, method.reconstruct(method.factors(kernel, ranks, metric)), moments)


@cache
def fit(name, shape, ranks, metric="correlated"):
    """The output error that a method reaches with moments; several tests ask for the same."""
    kernel, moments = problem(shape, metric)
    return reached(DECOMPOSITIONS[name], kernel, ranks, moments, moments)


def layer_of(shape):
    return nn.Conv2d(shape[1], shape[0], shape[2:], dtype=torch.float64)


def ranks_between(method, shape, steps=(0.3, 0.6, 1)):
    largest = method.max_ranks(layer_of(shape))
    combined = product(steps, repeat=len(largest))
    return sorted({tuple(ceil(s * r) for s, r in zip(each, largest, strict=True)) for each in combined})


def half(method, layer):
    return tuple(ceil(rank / 2) for rank in method.max_ranks(layer))


@for_every_method
@at_all_shapes
@for_every_metric
@pytest.mark.covering(2)
def test_the_factors_are_exact_at_the_largest_ranks(method, shape, metric):
    kernel, moments = problem(shape, metric)
    largest = method.max_ranks(layer_of(shape))
    assert reached(method, kernel, largest, moments, moments) < 1e-9
    if metric == "correlated":
        torch.testing.assert_close(
            method.reconstruct(method.factors(kernel, largest, moments)), kernel, rtol=1e-5, atol=1e-5
        )


@for_every_method
@at_all_shapes
@for_every_metric
@pytest.mark.covering(2)
def test_the_factors_are_no_worse_than_those_of_the_weight_alone(method, shape, metric):
    kernel, moments = problem(shape, metric)
    for ranks in ranks_between(method, shape):
        assert fit(method.name, shape, ranks, metric) <= reached(method, kernel, ranks, moments) + 1e-9, ranks


@for_every_method
@at_all_shapes
def test_the_factors_are_better_than_those_of_the_weight_alone_at_low_ranks(method, shape):
    """Else the test above would pass with methods that do not look at the moments."""
    kernel, moments = problem(shape)
    ranks = ranks_between(method, shape)[0]
    assert fit(method.name, shape, ranks) < 0.97 * reached(method, kernel, ranks, moments)


@for_every_method
@at_all_shapes
@for_every_metric
@pytest.mark.covering(2)
def test_the_predicted_error_bounds_the_one_that_is_reached(method, shape, metric):
    kernel, moments = problem(shape, metric)
    grid = ranks_between(method, shape)
    for ranks, bound in zip(grid, method.errors(kernel, grid, moments), strict=True):
        assert fit(method.name, shape, ranks, metric) <= bound + 1e-9, ranks


@at_all_shapes
@for_every_metric
def test_errors_of_svd_are_exact(shape, metric):
    method, (kernel, moments) = DECOMPOSITIONS["svd"], problem(shape, metric)
    grid = ranks_between(method, shape)
    true = [reached(method, kernel, ranks, moments, moments) for ranks in grid]
    assert method.errors(kernel, grid, moments) == pytest.approx(true, abs=1e-9)


@at_all_shapes
@for_every_metric
def test_svd_is_the_whitened_svd_of_lapack(shape, metric):
    kernel, moments = problem(shape, metric)
    values, vectors = torch.linalg.eigh(moments)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    left, cut, right = torch.linalg.svd(kernel.flatten(1) @ root, full_matrices=False)
    for rank in range(1, len(cut)):
        best = (left[:, :rank] * cut[:rank]) @ right[:rank]
        factors = DECOMPOSITIONS["svd"].factors(kernel, (rank,), moments)
        whitened = DECOMPOSITIONS["svd"].reconstruct(factors).flatten(1) @ root
        torch.testing.assert_close(whitened, best, rtol=1e-6, atol=1e-6)


def tucker2_by_alternation(kernel, ranks, moments, sweeps=50):
    """Every factor in turn by least squares through the Kronecker product, from the HOSVD of the weight."""
    outputs, inputs, *taps = kernel.shape
    tensor, count = kernel.flatten(2), prod(taps)
    rank_out, rank_in = ranks
    metric = moments.reshape(inputs, count, inputs, count)
    target = (kernel.flatten(1) @ moments).reshape(outputs, inputs, count)
    out = torch.linalg.svd(tensor.flatten(1), full_matrices=False)[0][:, :rank_out]
    into = torch.linalg.svd(tensor.transpose(0, 1).flatten(1), full_matrices=False)[0][:, :rank_in]
    for _ in range(sweeps):
        # core: out^T target = core (into^T S into)
        inner = torch.einsum("akbl,ar,bs->rksl", metric, into, into).reshape(rank_in * count, -1)
        right = torch.einsum("tak,ar,to->ork", target, into, out).flatten(1)
        core = torch.linalg.lstsq(inner, right.T).solution.T.reshape(rank_out, rank_in, count)
        # into: the normal equations over (channel, rank)
        mixed = torch.einsum("ork,akbl,osl->arbs", core, metric, core).reshape(inputs * rank_in, -1)
        wanted = torch.einsum("tak,to,ork->ar", target, out, core).flatten()
        into = torch.linalg.qr(torch.linalg.lstsq(mixed, wanted[:, None]).solution.reshape(inputs, rank_in))[0]
        # core again, then out by orthogonal regression
        inner = torch.einsum("akbl,ar,bs->rksl", metric, into, into).reshape(rank_in * count, -1)
        whole = torch.einsum("tak,ar->trk", target, into).flatten(1)
        best = torch.linalg.lstsq(inner, whole.T).solution.T
        out = torch.linalg.eigh(best @ whole.T + whole @ best.T)[1][:, -rank_out:]
        core = (out.T @ best).reshape(rank_out, rank_in, count)
    return torch.einsum("to,ork,ar->tak", out, core, into).reshape(kernel.shape)


@pytest.mark.parametrize("shape", SHAPES[:2], ids=str)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.covering(1)
def test_tucker2_is_not_worse_than_fifty_sweeps_of_alternation(shape, seed):
    method, (kernel, moments) = DECOMPOSITIONS["tucker2"], problem(shape, seed=seed)
    for ranks in [(3, 3), (6, 4), (4, 6)]:
        theirs = output_error(kernel, tucker2_by_alternation(kernel, ranks, moments), moments)
        assert reached(method, kernel, ranks, moments, moments) <= theirs * 1.02 + 1e-9, ranks


@for_every_method
@at_all_shapes
@for_every_metric
@pytest.mark.covering(2)
def test_the_error_does_not_grow_with_any_rank(method, shape, metric):
    """The closed forms never do; what is refined from them stops within a percent of a minimum."""
    grid = ranks_between(method, shape)
    error = {ranks: fit(method.name, shape, ranks, metric) for ranks in grid}
    for smaller, larger in product(grid, grid):
        if all(a <= b for a, b in zip(smaller, larger, strict=True)):
            assert error[larger] <= error[smaller] * 1.05 + 1e-9, (smaller, larger)


@for_every_method
def test_moments_that_tell_nothing_give_the_factors_of_the_weight(method):
    """At the identity the output error is the weight's."""
    kernel = problem(SHAPES[0])[0]
    eye = torch.eye(prod(SHAPES[0][1:]), dtype=torch.float64)
    for ranks in ranks_between(method, SHAPES[0]):
        ours, plain = (reached(method, kernel, ranks, eye, given) for given in (eye, None))
        assert ours <= plain + 1e-9


@for_every_method
def test_equal_problems_give_equal_factors(method):
    for first, second in zip(*(factors_of(method) for _ in range(2)), strict=True):
        assert torch.equal(first, second)


def factors_of(method):
    kernel, moments = problem(SHAPES[0])
    return method.factors(kernel, half(method, layer_of(SHAPES[0])), moments)


@for_every_method
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_scale_of_the_moments_does_not_matter(method, scale):
    kernel, moments = problem(SHAPES[0])
    ranks = half(method, layer_of(SHAPES[0]))
    plain, scaled = (reached(method, kernel, ranks, moments, given) for given in (moments, scale * moments))
    assert scaled == pytest.approx(plain, rel=0.02)


def layer_problem(layer):
    """A layer's kernels, the second moments of correlated inputs of it, and those inputs."""
    torch.manual_seed(0)
    layer = layer.double()
    channels = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels
    positions = {nn.Linear: (), nn.Conv1d: (12,)}.get(type(layer), (9, 9))
    mixing = random(channels, channels) * torch.logspace(0, -1.5, channels, dtype=torch.float64)
    x = torch.einsum("cd,nd...->nc...", mixing, random(40, channels, *positions, seed=3))
    rows = patches(layer, x, most=10**6)
    return kernels(layer), rows @ rows.mT / rows.shape[2], rows


def supported(layers):
    return [
        pytest.param(DECOMPOSITIONS[name], layer, id=f"{name} {layer}")
        for name, layer in product(METHODS, layers)
        if DECOMPOSITIONS[name].supports(layer)
    ]


@pytest.mark.parametrize(("method", "layer"), supported(LAYERS))
def test_the_outputs_of_a_layer_are_nearer_with_moments_than_without(method, layer):
    stacked, moments, rows = layer_problem(layer)
    ranks = half(method, layer)
    ours, plain = (fitted(method, ranks, stacked, given)[1] for given in (moments, None))
    error = [float(((stacked - other).flatten(2) @ rows).square().sum()) for other in (ours, plain)]
    assert error[0] < error[1]


@pytest.mark.parametrize(("method", "layer"), supported(LAYERS))
def test_the_kernels_told_are_those_of_the_factors(method, layer):
    stacked, moments, _ = layer_problem(layer)
    factors, told = fitted(method, half(method, layer), stacked, moments)
    for group in range(len(stacked)):
        torch.testing.assert_close(method.reconstruct(tuple(factor[group] for factor in factors)), told[group])


def metric_for(stacked):
    """Outputs of very different worth, mixed."""
    groups, outputs = stacked.shape[:2]
    mixing = random(groups, outputs, outputs, seed=7) * torch.logspace(0, -1, outputs, dtype=torch.float64)
    return mixing @ mixing.mT / outputs


@pytest.mark.parametrize(("method", "layer"), supported(LAYERS))
def test_a_metric_of_the_outputs_lowers_the_error_in_that_metric(method, layer):
    stacked, moments, _ = layer_problem(layer)
    metric, ranks = metric_for(stacked), half(method, layer)

    def worth(other):
        off = (stacked - other).flatten(2)
        return float(torch.einsum("gts,gtd,gde,gse->", metric, off, moments, off))

    with_metric, without = (fitted(method, ranks, stacked, moments, given)[1] for given in (Metric(metric), None))
    assert worth(with_metric) < 0.95 * worth(without)


@pytest.mark.parametrize(("method", "layer"), supported(LAYERS))
def test_with_a_metric_the_factors_are_exact_at_the_largest_ranks(method, layer):
    stacked, moments, _ = layer_problem(layer)
    _, told = fitted(method, method.max_ranks(layer), stacked, moments, Metric(metric_for(stacked)))
    torch.testing.assert_close(told, stacked, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------------- pieces


def test_the_root_and_its_inverse_are_those_of_the_range():
    _, moments = problem(SHAPES[0], "rank-deficient")
    root, inverse = root_and_inverse(moments)
    torch.testing.assert_close(root @ root, moments)
    torch.testing.assert_close(inverse, torch.linalg.pinv(root, rtol=1e-7), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["correlated", "rank-deficient"])
def test_solving_is_multiplying_with_the_pseudo_inverse(metric):
    kernel, moments = problem(SHAPES[0], metric)
    cross = kernel.flatten(1) @ moments
    torch.testing.assert_close(solved(moments, cross) @ moments, cross, rtol=1e-6, atol=1e-8)


def test_leading_directions_tell_more_than_any_random_ones():
    _, moments = problem((12, 10, 3, 3))
    own, matrix = moments[:20, :20], random(20, 30, seed=5)
    total = torch.trace(matrix.T @ own @ matrix)

    def left(directions):
        cross = directions @ own @ matrix
        return float(total - torch.trace(cross.T @ torch.linalg.solve(directions @ own @ directions.T, cross)))

    ours = leading_directions(own, matrix)[:4]
    best = torch.linalg.svdvals(root_and_inverse(own)[0] @ matrix)[4:].square().sum()
    assert left(ours) == pytest.approx(float(best))
    assert all(left(random(4, 20, seed=seed)) > left(ours) for seed in range(10))
