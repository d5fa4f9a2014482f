"""An adapter from outside this package: one file, one entry of ``ADAPTERS``, and the commands take its layers."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from edgecompress.adapters import ADAPTERS
from edgecompress.cli import run_command_line
from edgecompress.errors import ModelError
from edgecompress.plans import CompressionPlan
from edgecompress.sources import resolve
from tests.toys import imported

ADAPTER = dedent(
    '''
    """Two matrices whose product is a layer."""

    from torch import nn

    from edgecompress.adapters.base import Unadaptable, linear_of


    class Pairs:
        name = "pairs"
        summary = "Two matrices in a row: an nn.Linear."
        notice = ""

        def recognizes(self, module):
            return type(module).__name__ == "Pair"

        def adapt(self, module):
            if module.between:
                raise Unadaptable("Pair: something is between its matrices")
            return linear_of(module.second @ module.first, None)
    '''
)

MODEL = dedent(
    """
    import torch
    from torch import nn


    class Pair(nn.Module):
        def __init__(self, between):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(8, 64)), nn.Parameter(torch.randn(64, 8))
            self.between = between

        def forward(self, x):
            hidden = x @ self.first.T
            return (hidden.relu() if self.between else hidden) @ self.second.T


    def model():
        torch.manual_seed(0)
        return nn.Sequential(Pair(False), nn.ReLU(), Pair(True), nn.Linear(64, 8))


    def attention():
        torch.manual_seed(0)
        return nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 2, 64, batch_first=True), 1)


    def example():
        return torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    """
)


BY_WEIGHTS = ("--keep", "0.8", "--of", "params", "--calibrate", "0")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A model file."""
    (tmp_path / "net.py").write_text(MODEL)
    return tmp_path / "net.py"


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new adapter in the table."""
    (tmp_path / "pairs_adapter.py").write_text(ADAPTER)
    adapter = imported(tmp_path / "pairs_adapter.py").Pairs()
    monkeypatch.setitem(ADAPTERS, adapter.name, adapter)


def compressed(model: str, folder: Path, *chosen: str) -> Path:
    """The folder of a compressed model."""
    assert run_command_line(["compress", model, *(chosen or BY_WEIGHTS), "--epochs", "0", "-o", str(folder)]) == 0
    return folder


@pytest.mark.usefixtures("pairs")
def test_the_commands_take_its_layers(
    file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_command_line(["inspect", str(file), "--json"]) == 0
    layers = {layer["name"]: layer for layer in json.loads(capfd.readouterr().out)["layers"]}
    assert "svd" in layers["0"]["methods"]
    assert layers["2"]["reason"] == "Pair: something is between its matrices"
    folder = compressed(str(file), file.parent / "small")
    plan = CompressionPlan.load(folder / "plan.json")
    assert (plan.adapters, [layer.name for layer in plan.layers]) == (("pairs",), ["0"])
    again = resolve(str(folder), trust=True).model()
    assert [type(link).__name__ for link in again[0]] == ["Linear", "Linear"]
    capfd.readouterr()
    assert run_command_line(["list", "adapters", "--json"]) == 0
    assert "pairs" in json.loads(capfd.readouterr().out)["adapters"]
    monkeypatch.delitem(ADAPTERS, "pairs")
    with pytest.raises(ModelError, match="was made with an adapter 'pairs', which is not here"):
        resolve(str(folder), trust=True).model()


def test_a_compressed_model_with_attention_loads_bit_for_bit(file: Path) -> None:
    folder = compressed(f"{file}:attention", file.parent / "small")
    sample = resolve(str(folder), trust=True)
    assert sample.plan is not None
    assert sample.plan.adapters == ("attention",)
    names = {layer.name for layer in sample.plan.layers}
    assert names & {f"layers.0.self_attn.{which}_proj" for which in ("q", "k", "v", "out")}
    first, second = sample.model(), resolve(str(folder), trust=True).model()
    with torch.no_grad():
        assert torch.equal(first(*sample.inputs), second(*sample.inputs))


def test_a_plan_of_before_there_were_adapters_is_still_followed(file: Path) -> None:
    old = file.parent / "old.json"
    document = {
        "kind": "edgecompress.plan",
        "version": 1,
        "model": "net",
        "dense": {"macs": 0, "params": 0},
        "planned": {"macs": 0, "params": 0},
        "layers": [],
        "skipped": [
            {"name": f"layers.0.{name}", "reason": "of before"}
            for name in ("self_attn", "self_attn.out_proj", "linear1", "linear2")
        ],
        "rivals": [],
    }
    old.write_text(json.dumps(document))
    folder = compressed(f"{file}:attention", file.parent / "small", "--plan", str(old))
    state = resolve(str(folder), trust=True).model().state_dict()
    assert "layers.0.self_attn.in_proj_weight" in state
