"""A source from outside this package: one file, one entry of ``SOURCES``, and the commands take its models."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from safetensors.torch import save_file

from edgecompress.cli import run_command_line
from edgecompress.errors import ModelError
from edgecompress.sources import SOURCES, resolve
from tests.toys import imported

SOURCE = dedent(
    '''
    """Models that are weights alone: safetensors of linear layers, with ReLU between them."""

    import re
    from pathlib import Path

    import torch
    from torch import nn

    from edgecompress.files import load_weights
    from edgecompress.models import Sample


    class Weights:
        name = "weights"
        form = "a file.safetensors"
        summary = "Weights of linear layers."
        runs_code = False

        def matches(self, text):
            return Path(text).suffix == ".safetensors"

        def files(self, text):
            return (Path(text),)

        def resolve(self, text, *, trust, above=()):
            path = Path(text)
            state = load_weights(path)

            def model():
                layers = []
                for name, weight in sorted(state.items()):
                    layers += [nn.Linear(weight.shape[1], weight.shape[0], bias=False), nn.ReLU()]
                    layers[-2].weight.data = weight.clone()
                return nn.Sequential(*layers[:-1])

            first = min(state)
            return Sample(path.stem, str(path.resolve()), model, (torch.ones(2, state[first].shape[1]),))
    '''
)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the new kind, its source in the table."""
    (tmp_path / "weights_source.py").write_text(SOURCE)
    source = imported(tmp_path / "weights_source.py").Weights()
    monkeypatch.setitem(SOURCES, source.name, source)
    torch.manual_seed(0)
    file = tmp_path / "net.safetensors"
    save_file({"0": torch.randn(64, 16) @ torch.randn(16, 96), "1": torch.randn(10, 64)}, file)
    return file


def test_the_commands_take_its_models(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    small = weights.parent / "small"
    assert run_command_line(["inspect", str(weights), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["cost"]["params"] == 64 * 96 + 10 * 64
    assert run_command_line(["compress", str(weights), "--keep", "0.6", "--of", "params", "-o", str(small)]) == 0
    capfd.readouterr()
    assert run_command_line(["inspect", str(small), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["cost"]["params"] <= 0.6 * (64 * 96 + 10 * 64)
    assert run_command_line(["plan", str(weights), "--force", "-o", str(weights)]) == 2
    assert "net.safetensors" in capfd.readouterr().err


def test_messages_and_lists_name_it(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["list", "sources", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["sources"]["weights"] == {"summary": "Weights of linear layers."}
    with pytest.raises(ModelError, match=r"A model is a sample \(.*package\.module:name or a file\.safetensors"):
        resolve("nothing")
