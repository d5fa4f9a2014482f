"""What a contributor would add, each one file and one entry of a table: the commands take it and name it."""

from __future__ import annotations

import json
from collections.abc import Callable, MutableMapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from edgecompress.cli import run_command_line
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.devices import DEVICES
from edgecompress.recipes import RECIPES
from edgecompress.selectors import SELECTORS
from edgecompress.targets import TARGETS
from tests.toys import imported

NET = """
import torch
from torch import nn
def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 4))
    net[0].weight.data = torch.randn(40, 6) @ torch.randn(6, 48)
    return net
example = torch.zeros(2, 48)
"""

DECOMPOSITION = '''
from dataclasses import dataclass
import torch
from torch import nn
from edgecompress.decompositions.base import SUPPORTED, Support

@dataclass(frozen=True)
class Columns:
    """Ranks (r,): of a Linear the columns of largest norm, and how to make all others of them."""
    name: str = "toy"
    summary: str = "a few columns stand for all"
    links: tuple = ("pick", "spread")
    automatic: bool = False

    def supports(self, layer):
        return SUPPORTED if type(layer) is nn.Linear else Support("only Linear has columns")

    def max_ranks(self, layer):
        return (min(layer.weight.shape),)

    def chain(self, layer, ranks):
        outputs, inputs = layer.weight.shape
        chain = nn.Sequential()
        chain.pick = nn.Linear(inputs, ranks[0], bias=False)
        chain.spread = nn.Linear(ranks[0], outputs, bias=layer.bias is not None)
        return chain

    def factors(self, kernel, ranks, moments=None):
        left = kernel.double()[:, kernel.norm(dim=0).argsort(descending=True)[: ranks[0]]]
        return torch.linalg.lstsq(left, kernel.double()).solution, left

    def reconstruct(self, factors):
        return factors[1] @ factors[0]

    def errors(self, kernel, candidates, moments=None):
        return [float(((kernel - self.reconstruct(self.factors(kernel, ranks))) ** 2).sum() / (kernel**2).sum())
                for ranks in candidates]

    def unfoldings(self, kernel):
        return (kernel,)

ADDED = Columns()
'''

SELECTOR = '''
from dataclasses import dataclass
from edgecompress.fields import option

@dataclass(frozen=True)
class Cheapest:
    """Each layer takes its cheapest candidate of a small enough error."""
    tolerance: float = option(0.5, "Relative error that is allowed.", low=0, high=1)
    seed: int = option(0, "Shared with training.", low=0)
    name: str = "toy"
    summary: str = "the cheapest within a tolerance"
    weighs_losses: bool = False

    def select(self, layers, total):
        found = {}
        for layer in layers:
            fine = [candidate for candidate in layer.candidates if candidate.error <= self.tolerance]
            found[layer.name] = min(fine, key=lambda c: c.cost.macs) if fine else "nothing within the tolerance"
        return found

ADDED = Cheapest()
'''

RECIPE = '''
from dataclasses import dataclass
from typing import ClassVar
from edgecompress.decomposing import decompose
from edgecompress.planning import plan
from edgecompress.recipes.base import Needs, RecipeResult
from edgecompress.fields import option

@dataclass(frozen=True)
class Scaled:
    """Scales the weights before ranks are chosen: they come out the same."""
    scale: float = option(2.0, "Of the weights.", above=0)
    name: str = "toy"
    summary: str = "scales weights, to show that a recipe can"
    needs: ClassVar[Needs] = Needs("energy")

    def start(self, inputs):
        made = plan(inputs.dense, inputs.sample.inputs, inputs.selector, inputs.scope)
        return RecipeResult(made, decompose(inputs.dense, made), {"scale": self.scale})

ADDED = Scaled()
'''

TARGET = '''
from dataclasses import dataclass
from edgecompress.targets.onnx import Onnx

@dataclass(frozen=True)
class Toy(Onnx):
    """The same graph in a file of another name."""
    name: str = "toy"
    suffix: str = ".toy"
    summary: str = "ONNX by another name"
    precisions: tuple = ("fp32",)

ADDED = Toy()
'''

DEVICE = """
from dataclasses import dataclass
from edgecompress.devices import Kind
from edgecompress.devices.local import Local

def parse(rest, options):
    options.refuse_other_than("toy")
    return Local(f"toy:{rest}")

ADDED = Kind("NUMBER", "this machine by another name", parse)
"""

Run = Callable[..., str]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[MutableMapping[str, Any], str], None]:
    """Put what a file defines into a table, as ``toy``: the one line."""

    def add(table: MutableMapping[str, Any], text: str) -> None:
        (tmp_path / "toy.py").write_text(dedent(text))
        monkeypatch.setitem(table, "toy", imported(tmp_path / "toy.py").ADDED)

    return add


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """A command beside ``net.py``, and what it prints; it ends with ``code``."""
    (tmp_path / "net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)

    def run(line: str, code: int = 0) -> str:
        capfd.readouterr()
        assert run_command_line(line.split()) == code, capfd.readouterr().err
        answer = capfd.readouterr()
        return answer.err if code else answer.out

    return run


def test_a_decomposition(add: Callable[..., None], run: Run) -> None:
    add(DECOMPOSITIONS, DECOMPOSITION)
    assert "|toy|" in run("plan --help")
    assert "a few columns stand for all" in run("compress --help-all")
    assert "a few columns stand for all" in run("list methods")
    document = json.loads(run("compress net.py --method toy --keep 0.6 --multiple 2 -o small --json"))
    assert document["cost"]["compressed"]["macs"] <= 0.6 * document["cost"]["dense"]["macs"]
    run("export small --trust -o files")
    links = json.loads(Path("files/model.onnx.json").read_text())["plan"]["layers"][0]
    assert links["method"] == "toy"


def test_a_selector_with_an_option(add: Callable[..., None], run: Run) -> None:
    add(SELECTORS, SELECTOR)
    assert "|toy]" in run("plan --help")
    text = " ".join(run("plan --help-all").split())
    assert "--tolerance NUMBER With --select toy: Relative error that is allowed. [0.5]" in text
    assert "the cheapest within a tolerance" in text
    assert "the cheapest within a tolerance" in run("list selectors")
    wide, narrow = (json.loads(run(f"plan net.py --select toy --tolerance {t} --json")) for t in (0.9, 0))
    assert wide["planned"]["macs"] < narrow["planned"]["macs"]
    assert json.loads(run("compress net.py --select toy -o small --json"))["model"] == "net"
    assert "planned" in run("plan net.py --seed 3")
    assert "--tolerance belongs to --select toy; with --select budget use" in run("plan net.py --tolerance 0.1", 2)


def test_a_recipe_with_an_option(add: Callable[..., None], run: Run) -> None:
    add(RECIPES, RECIPE)
    assert "|toy]" in run("compress --help")
    assert "scales weights, to show that a recipe can" in run("run --help-all")
    assert "scales weights, to show that a recipe can" in run("list recipes")
    document = json.loads(run("compress net.py --recipe toy --scale 3 --calibrate 0 -o small --json"))
    assert document["recipe"] == {"name": "toy", "scale": 3.0}
    assert "--scale belongs to --recipe toy, not to --recipe none" in run("compress net.py --scale 3 -o x", 2)


def test_a_target(add: Callable[..., None], run: Run) -> None:
    add(TARGETS, TARGET)
    assert "|toy]" in run("export --help")
    assert "ONNX by another name" in run("export --help-all")
    assert "ONNX by another name" in run("list targets")
    (artifact,) = json.loads(run("export net.py --target toy -o files --json"))["artifacts"]
    assert artifact["target"] == "toy"
    assert artifact["path"].endswith("model.toy")
    assert "verified" in run("verify files --model net.py --json")


@pytest.mark.usefixtures("brief_measuring")
def test_a_device(add: Callable[..., None], run: Run) -> None:
    add(DEVICES, DEVICE)
    assert "toy:NUMBER" in run("list devices")
    assert "toy:NUMBER" in run("profile --help-all")
    run("export net.py -o files")
    document = json.loads(run("profile files/model.onnx --device toy:7 --threads 1 --seconds 0.01 --runs 2 --json"))
    assert document["profile"]["device"]["name"] == "toy:7"
    assert "--runner is of no use" in run("profile files/model.onnx --device toy:7 --runner x", 4)
