"""Copies and states of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgecompress.decomposing import decompose
from edgecompress.files import save_weights
from edgecompress.finetuning.loop import Objective, fit
from edgecompress.models import Sample, put_state
from edgecompress.planning import plan
from edgecompress.selectors import Budget
from edgecompress.settings import FineTuning
from edgecompress.sources.compressed_folder import WEIGHTS_FILE, rebuilt, save_compressed


class Versioned(nn.Module):
    """Its version 1 had weights half as large, as MNASNet of torchvision had other layers before its version 2."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(64, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 64) to (N, 4)."""
        return self.head(self.fc(x).relu())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("version") is None:
            for name in [name for name in state_dict if name.startswith(prefix)]:
                state_dict[name] = 2 * state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def made() -> Sample:
    """A sample whose module is versioned."""
    torch.manual_seed(0)
    model = nn.Sequential(Versioned())
    items = [(torch.randn(64), label % 4) for label in range(16)]
    return Sample("versioned", "versioned", lambda: model, torch.randn(2, 64), lambda _split: items)


def test_a_file_without_versions_fills_a_module_that_has_one(tmp_path: Path) -> None:
    model = made().model()
    save_weights(tmp_path / "weights.safetensors", model.state_dict())
    state = load_file(tmp_path / "weights.safetensors")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    put_state(model, state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.load_state_dict(state)
    assert not torch.equal(model[0].fc.weight, before["0.fc.weight"]), "the toy tells nothing"


def test_a_compressed_folder_gives_a_versioned_module_its_weights(tmp_path: Path) -> None:
    sample = made()
    how = plan(sample.model(), sample.inputs, Budget(0.6), multiple=1, name=sample.name)
    compressed = decompose(sample.model(), how).eval()
    save_compressed(tmp_path, compressed, how, sample)
    assert (tmp_path / WEIGHTS_FILE).is_file()
    assert torch.equal(rebuilt(sample, tmp_path).model()(*sample.inputs), compressed(*sample.inputs))


class Still(Objective):
    """A loss that changes nothing."""

    def loss(self, model: nn.Module, inputs: tuple[Tensor, ...], targets: Tensor) -> Tensor:
        """Zero."""
        del targets
        return 0 * model(*inputs).sum()


def test_the_best_epoch_of_a_versioned_module_is_given_back() -> None:
    sample = made()
    model = sample.model()
    trained = fit(model, sample, FineTuning(epochs=1, weight_decay=0.0), Still()).model
    torch.testing.assert_close(trained(*sample.inputs), model(*sample.inputs))
