"""What fits of many ranks share, against what each gives alone."""

import pytest
import torch

from edgecompress.decompositions import AUTO, DECOMPOSITIONS
from edgecompress.decompositions.base import leading_eigenvectors, most_eigenvectors
from edgecompress.decompositions.fitting import fitting
from edgecompress.decompositions.projection import Problem, squared_outputs
from edgecompress.decompositions.sketch import Sketch, products
from edgecompress.decompositions.svd import Principal

CANDIDATES = {
    "svd": [(2,), (5,), (12,)],
    "spatial_svd": [(3,), (6,), (20,)],
    "tucker2": [(4, 3), (8, 3), (12, 10)],
    "hierarchical_tucker2": [(4, 5, 3), (8, 9, 3), (12, 20, 10)],
    "cp3": [(4,), (15,)],
    "cp4": [(4,), (15,)],
}


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    kernel, root = torch.randn(12, 10, 3, 3).double(), torch.randn(90, 90).double()
    return kernel, (root @ torch.linspace(2, 0.1, 90).double().diag() @ root.T / 90).to(dtype)


def error(kernel, reached, moments):
    left = kernel - reached.reshape(kernel.shape)
    return float(squared_outputs(left, moments.double()) / squared_outputs(kernel, moments.double()))


@pytest.mark.parametrize("method", AUTO)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_errors_of_nested_ranks_are_those_that_their_starts_reach(method, dtype):
    kernel, moments = problem(dtype)
    fits = fitting(DECOMPOSITIONS[method], kernel, moments)
    found = fits.errors(CANDIDATES[method])
    alone = [error(kernel, fits.reached(ranks, 0), moments) for ranks in CANDIDATES[method]]
    damping = getattr(DECOMPOSITIONS[method], "damping", 0)
    assert found == pytest.approx(alone, abs=1e-5 + damping)


@pytest.mark.parametrize("method", [method for method in AUTO if method != "svd"])
def test_the_gradient_is_that_of_the_error_at_the_best_tail(method):
    kernel, moments = problem()
    fits, ranks = Problem(DECOMPOSITIONS[method], kernel, moments), CANDIDATES[method][0]
    head = tuple(part.clone().requires_grad_() for part in fits.starts(ranks))
    loss = fits._loss(head, ranks)
    loss.backward()
    direction = [torch.randn_like(part) for part in head]
    step = 1e-5
    ends = [
        fits._loss(tuple((part + sign * step * d).detach() for part, d in zip(head, direction, strict=True)), ranks)
        for sign in (1, -1)
    ]
    slope = sum(float((part.grad * d).sum()) for part, d in zip(head, direction, strict=True))
    assert float((ends[0] - ends[1]).detach()) / (2 * step) == pytest.approx(slope, rel=0.02)
    left = error(kernel, DECOMPOSITIONS[method].reconstruct(fits.factors(ranks, 0)), moments)
    assert float(loss.detach()) == pytest.approx(left, rel=1e-6)


def test_a_sketch_counts_as_the_moments_it_stands_for():
    torch.manual_seed(0)
    weight, sketch = torch.randn(8, 40).double(), Sketch(torch.randn(6, 40).double(), 0.3)
    moments = sketch.rows.T @ sketch.rows + 0.3 * torch.eye(40).double()
    torch.testing.assert_close(weight @ sketch, weight @ moments)
    torch.testing.assert_close(sketch.of_outputs(weight), weight @ moments @ weight.T)
    torch.testing.assert_close(squared_outputs(weight, sketch), squared_outputs(weight, moments))
    assert sketch.shape == moments.shape
    few, whole = Principal(weight, sketch), Principal(weight, moments)
    assert few.errors([(2,), (8,)]) == pytest.approx(whole.errors([(2,), (8,)]), abs=1e-12)
    torch.testing.assert_close(few.reached((3,), 0), whole.reached((3,), 0))


def test_products_in_blocks_are_those_of_the_whole():
    rows = torch.randn(1, 1030, 7)
    torch.testing.assert_close(products(rows), rows @ rows.mT)


def test_the_spectrum_of_fewer_inputs_than_outputs_is_that_of_the_outputs():
    torch.manual_seed(0)
    weight, root = torch.randn(30, 9).double(), torch.randn(9, 9).double()
    moments = root @ root.T
    values, vectors = leading_eigenvectors(weight @ moments @ weight.T)
    found = Principal(weight, moments)
    torch.testing.assert_close(found.basis[:, :5] @ found.basis[:, :5].T, vectors[:, :5] @ vectors[:, :5].T)
    assert found.errors([(5,)]) == pytest.approx([float(values[5:].sum() / values.sum())])


def test_a_part_of_a_large_spectrum_is_a_bound_of_it(monkeypatch):
    monkeypatch.setattr("edgecompress.decompositions.base.MOST_EIGENVECTORS", 100)
    torch.manual_seed(0)
    root = torch.randn(200, 200).double() * torch.linspace(1, 0.01, 200).double()
    gram = root @ root.T
    values, vectors = most_eigenvectors(gram)
    true = leading_eigenvectors(gram)[0]
    assert vectors.shape == (200, 50)
    assert bool((values <= true[:50] * (1 + 1e-9)).all())
    assert float(values.sum() / true[:50].sum()) > 0.99
    whole = Principal(torch.eye(200).double(), gram)
    exact = [1 - float(true[:rank].sum() / true.sum()) for rank in (10, 50, 120, 200)]
    bounds = whole.errors([(10,), (50,), (120,), (200,)])
    assert all(bound >= least - 1e-9 for bound, least in zip(bounds, exact, strict=True))
    assert bounds[-1] == pytest.approx(0, abs=1e-9)
