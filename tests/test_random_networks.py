"""Networks drawn at random go all the way: plan, refit, full rank, merge, file, parity, reload.

A seed is a network and all that is drawn for it; one that fails is named by it. Nothing may be refused but a budget
that no plan reaches, and then the nearest that the message names is reached; and the file of a network whose outputs
single precision leaves open (a signal of 0.3 on a mean of 1,000 that a norm takes off).
"""

from __future__ import annotations

import random
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import edgecompress as ec
from edgecompress.costs import cost
from edgecompress.decompositions import AUTO, DECOMPOSITIONS
from edgecompress.errors import BudgetError, ParityError
from edgecompress.layers import weighted_layers
from edgecompress.models import Sample, copied
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from edgecompress.selectors import Budget, Energy, Vbmf
from edgecompress.selectors.base import LayerCandidates, Selector
from edgecompress.sources.compressed_folder import load_compressed, save_compressed
from tests import random_networks
from tests.random_networks import Network, network

EXACT = ("svd", "spatial_svd", "tucker2", "hierarchical_tucker2", "tensor_train")
"""Methods whose largest ranks are exact: those of cp are only bounds."""

FEWEST = 19, 38, 123, 182, 202, 452, 468
"""Of the few the quickest that hold every kind of block: the fast suite's."""
FEW, AT_ONCE = (
    19, 35, 38, 41, 57, 118, 123, 128, 182, 202, 221, 321, 328, 378, 382, 400, 412, 418, 424, 445, 452, 454, 468, 485,
    487,
), 4  # fmt: skip
"""Of the first 500 the quickest that hold together what the first 60 hold: every kind of block, layer, input, option of
a convolution, method, rank rule and strange weight, and both refusals."""
MANY, MANY_AT_ONCE = 1000, 20


@dataclass
class Course:
    """How far a network got, and why no further."""

    network: Network
    folder: Path
    refused: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    layers: int = 0


@dataclass(frozen=True)
class Witness:
    """A rank rule that chooses as another, and remembers for which layers it was asked to."""

    rule: Selector
    asked: list[LayerCandidates] = field(default_factory=list)
    name: str = "witness"
    summary: str = ""

    @property
    def weighs_losses(self) -> bool:
        return self.rule.weighs_losses

    def select(self, layers, total, /):
        self.asked[:] = layers
        return self.rule.select(layers, total)


def sample_of(drawn: Network, folder: Path) -> Sample:
    """As a user would have it: a file whose ``model()`` gives the network, and ``example()`` its inputs."""
    file = folder / f"network_{drawn.seed}.py"
    file.write_text(
        dedent(
            f"""
            from tests.random_networks import network

            def model():
                return network({drawn.seed}).model

            def example():
                return network({drawn.seed}).inputs
            """
        )
    )
    return ec.resolve(str(file))


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        outputs = model.eval()(*inputs)
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def fresh(drawn: Network, batch: int) -> tuple[Tensor, ...]:
    """Inputs that nobody has seen."""
    generator = torch.Generator().manual_seed(batch)

    def like(x: Tensor) -> Tensor:
        if x.is_floating_point():
            return torch.randn(batch, *x.shape[1:], generator=generator)
        return torch.randint(0, int(x.max()) + 1, (batch, *x.shape[1:]), generator=generator)

    return tuple(map(like, drawn.inputs))


def assert_equal(found: list[Tensor], wanted: list[Tensor], relative: float, what: str) -> None:
    """The same shapes, and numbers within ``relative`` of the largest of each output."""
    assert [tuple(a.shape) for a in found] == [tuple(b.shape) for b in wanted], what
    for a, b in zip(found, wanted, strict=True):
        scale = float(b.double().abs().max())
        error = float((a.double() - b.double()).abs().max())
        assert error <= relative * scale + 1e-12, f"{what}: {error:.3g} of {scale:.3g}"


def rounding(model: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """What single precision alone changes, relative to the largest of each output."""
    exact = outputs_of(copied(model).double(), tuple(x.double() if x.is_floating_point() else x for x in inputs))
    single = outputs_of(model, inputs)
    return max(
        float((a - b).abs().max()) / max(float(a.abs().max()), 1e-30) for a, b in zip(exact, single, strict=True)
    )


def rule(draw: random.Random) -> Selector:
    """A rank rule with options drawn at random."""
    return draw.choice(
        (
            Budget(draw.choice((0.3, 0.5, 0.7, 0.9)), draw.choice(("macs", "params", "bytes"))),
            Budget(draw.choice((0.6, 0.8)), draw.choice(("macs", "params"))),
            Energy(draw.choice((0.5, 0.8, 0.95))),
            Vbmf(),
        )
    )


def planned(course: Course, dense: nn.Module, draw: random.Random) -> tuple[CompressionPlan, Witness, object]:
    """A plan by a random rule; where its budget is too low, by the nearest one that can be reached."""
    drawn = course.network
    data = ec.Calibration(drawn.calibration, classes=draw.random() < 0.5) if draw.random() < 0.7 else None
    methods = draw.choice(((), (), AUTO, tuple(DECOMPOSITIONS), (draw.choice(tuple(DECOMPOSITIONS)),)))
    options = {"methods": methods, "multiple": draw.choice((1, 2, 2, 4, 8)), "calibration": data, "name": "random"}
    witness = Witness(rule(draw))
    try:
        return ec.plan(dense, drawn.inputs, witness, **options), witness, data
    except BudgetError as error:
        course.refused.append("no plan reaches the budget")
        reachable = replace(witness.rule, keep=min(1.0, error.nearest_keep + 1e-9))
        witness = Witness(reachable)
        return ec.plan(dense, drawn.inputs, witness, **options), witness, data


def full(dense: nn.Module, witness: Witness, draw: random.Random) -> CompressionPlan:
    """Every layer that may be replaced at the largest ranks of some exact method."""
    allowed = {layer.name for layer in witness.asked}
    layers, skipped = [], []
    for item in weighted_layers(dense):
        methods = [name for name in EXACT if DECOMPOSITIONS[name].supports(item.layer)] if item.name in allowed else []
        if methods:
            name = draw.choice(methods)
            ranks = DECOMPOSITIONS[name].max_ranks(item.layer)
            layers.append(LayerPlan(item.name, name, ranks, tuple(item.layer.weight.shape), 0.0))
        else:
            skipped.append(Skipped(item.name, "not in this test"))
    return CompressionPlan(model="full", layers=tuple(layers), skipped=tuple(skipped))


def run_file(path: Path, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What ONNX Runtime makes of a file, without any of the package's own code."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(np.asarray(array)) for array in session.run(None, feed)]


def check_full_rank(course: Course, dense: nn.Module, whole: CompressionPlan) -> None:
    """In double precision the outputs are the same; ``dense`` is in double precision afterwards."""
    exact = ec.decompose(dense.double(), whole)
    doubles = tuple(x.double() if x.is_floating_point() else x for x in course.network.inputs)
    assert_equal(outputs_of(exact, doubles), outputs_of(dense, doubles), 1e-6, "full rank is not the layer")


def go(seed: int, folder: Path) -> Course:
    """All the way with the network of one seed."""
    drawn, draw = network(seed), random.Random(seed + 1_000_000)
    course = Course(drawn, folder)
    sample = sample_of(drawn, folder)
    dense = sample.model()
    before = outputs_of(dense, drawn.inputs)
    state = {name: tensor.clone() for name, tensor in dense.state_dict().items()}

    plan, witness, data = planned(course, dense, draw)
    course.reached.append("plan")
    course.layers = len(plan.layers)
    small = ec.refit(dense, plan, data) if data is not None and draw.random() < 0.8 else ec.decompose(dense, plan)
    assert_equal(outputs_of(dense, drawn.inputs), before, 0, "planning changed the model")
    assert all(torch.equal(state[name], tensor) for name, tensor in dense.state_dict().items())
    assert not small.training
    built = cost(small, drawn.inputs)
    assert (plan.compressed.macs, plan.compressed.params) == (built.macs, built.params), (
        "the predicted cost is not the built one"
    )
    given = outputs_of(small, drawn.inputs)
    assert all(bool(x.isfinite().all()) for x in given), "the compressed model gives NaN or infinity"
    course.reached.append("refit")

    check_full_rank(course, dense, full(dense, witness, draw))
    dense = sample.model()
    course.reached.append("full rank")

    if any(layer.method in DECOMPOSITIONS for layer in plan.layers):
        merged, left = ec.merge_back(small, plan, dense, drawn.inputs, ["*"])
        assert not left.layers
        assert cost(merged, drawn.inputs) == cost(dense, drawn.inputs)
        assert_equal(
            outputs_of(merged, drawn.inputs),
            given,
            max(1e-4, 10 * rounding(small, drawn.inputs)),
            "merging back changed the outputs",
        )
    course.reached.append("merge")

    save_compressed(folder / "small", small, plan, sample)
    loaded = load_compressed(folder / "small", trust=True)
    again = loaded.model()
    for found, wanted in zip(outputs_of(again, drawn.inputs), given, strict=True):
        assert torch.equal(found, wanted), "loading changed the model"
    assert loaded.plan == plan
    course.reached.append("reload")

    exported(course, small, replace(sample, plan=plan), folder)
    return course


def exported(course: Course, small: nn.Module, sample: Sample, folder: Path) -> None:
    """Written, proved, and proved again here; where single precision itself is far off, that may be refused."""
    vague = max(rounding(small, fed) for fed in (course.network.inputs, fresh(course.network, 3)))
    try:
        artifact = ec.export(small, sample, folder / "files")
    except ParityError:
        assert vague > 1e-5, "refused though single precision tells"
        course.refused.append("single precision does not tell")
        return
    for batch in (1, 2, 5):
        fed, within = fresh(course.network, batch), max(2e-4, 10 * vague)
        found, wanted = run_file(artifact.path, fed), outputs_of(small, fed)
        assert_equal(found, wanted, within, f"the file differs at batch {batch}")
    course.reached.append("file")


def failures(seeds: Sequence[int], folder: Path) -> dict[int, str]:
    """What went wrong, by seed: refusals of no expected kind, other exceptions, differences."""
    wrong = {}
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        try:
            go(seed, place)
        except Exception as error:
            wrong[seed] = told(error)
    return wrong


def told(error: Exception) -> str:
    """An error and where it came from, in a line."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "site-packages" not in f.filename]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({', '.join(lines[-3:])})"


@pytest.mark.parametrize("seed", FEWEST)
def test_the_fewest_networks_go_all_the_way(seed: int, tmp_path: Path) -> None:
    assert failures([seed], tmp_path) == {}


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, len(FEW), AT_ONCE))
def test_a_few_networks_go_all_the_way(start: int, tmp_path: Path) -> None:
    assert failures(FEW[start : start + AT_ONCE], tmp_path) == {}


def test_the_fewest_networks_hold_every_kind_of_block() -> None:
    kinds = {kind for kind in vars(random_networks).values() if isinstance(kind, type) and issubclass(kind, nn.Module)}
    held = {type(module) for seed in FEWEST for module in network(seed).model.modules()}
    assert kinds <= held


@pytest.mark.slow
@pytest.mark.parametrize("start", range(0, MANY, MANY_AT_ONCE))
def test_many_networks_go_all_the_way(start: int, tmp_path: Path) -> None:
    assert failures(range(start, min(MANY, start + MANY_AT_ONCE)), tmp_path) == {}
