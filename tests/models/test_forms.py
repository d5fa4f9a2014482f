"""Inputs and outputs in any form: flat once, by the user's names in the file, in the user's form for their code."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import edgecompress as ec
from edgecompress.errors import DataError
from edgecompress.models import Sample, as_outputs, class_scores
from edgecompress.models.forms import filled, flattened, mapped, names_of
from edgecompress.selectors import Budget


class Pair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Given(OrderedDict):
    """As Hugging Face's ModelOutput: a dataclass that is a dict of what is there."""

    logits: Tensor | None = None
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                super().__setitem__(field.name, getattr(self, field.name))


class Encoder(nn.Module):
    """Takes tokens and a mask by name, as encoders of texts do, and calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 48)
        self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48)
        self.head = nn.Linear(48, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, *, scale: float = 1.0) -> Given:
        hidden = self.embed(input_ids)
        hidden = hidden + self.down(input=F.gelu(self.up(input=hidden))) * scale
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        return Given(logits=self.head(hidden.mean(1)), hidden=hidden)


def words(count: int) -> dict[str, object]:
    draw = torch.Generator().manual_seed(count)
    return {
        "input_ids": torch.randint(0, 50, (count, 6), generator=draw),
        "attention_mask": torch.ones(count, 6, dtype=torch.long),
        "scale": 0.5,
    }


class Texts:
    """Items as dicts by name."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[dict[str, object], int]:
        every = words(24)
        return {name: part[index] if isinstance(part, Tensor) else part for name, part in every.items()}, index % 4


def sample() -> Sample:
    torch.manual_seed(0)
    net = Encoder().eval()
    return Sample("texts", "texts", lambda: net, words(2), lambda _split: Texts())


def test_a_form_is_kept_and_its_leaves_change() -> None:
    x, y = torch.ones(2), torch.zeros(3)
    for value in ((x, None), [x, {"a": y}], {"a": (x, 3)}, Pair(x, y), Given(logits=x)):
        twice = mapped(value, lambda leaf: leaf * 2 if isinstance(leaf, Tensor) else leaf)
        assert type(twice) is type(value)
        for ours, theirs in zip(as_outputs(twice), as_outputs(value), strict=True):
            assert torch.equal(ours, theirs * 2)
        assert as_outputs(filled(value, as_outputs(twice)))[0] is not None
    assert names_of({"logits": x, "past": (y, None)}) == ("logits", "past_0")
    assert names_of((x, y)) == ()
    assert class_scores(Given(logits=x, hidden=y)) is x
    assert class_scores({"only": y}) is y


def test_tensors_by_position_have_no_form() -> None:
    x = torch.ones(2, 3)
    assert flattened(x, "mine") == (None, (x,))
    form, row = flattened({"a": x, "b": [x, 3], "c": None}, "mine")
    assert form is not None
    assert form.names == ("a", "b_0")
    assert form.given(row) == {"a": x, "b": [x, 3], "c": None}
    assert form.row({"a": x, "b": [x, 3], "c": None}) == row
    with pytest.raises(KeyError):
        form.row({"b": [x]})


def test_what_has_no_batch_becomes_part_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    class Anchored(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x: Tensor, anchors: Tensor, least: Tensor) -> Tensor:
            return (self.layer(x) + anchors.sum(0)).clamp(min=least)

    net, example = Anchored().eval(), (torch.randn(2, 8), torch.randn(7, 8), torch.tensor(-1.0))
    given = Sample("anchored", "anchored", lambda: net, example)
    said = capsys.readouterr().err
    assert "note: anchored: input '1' has 7 rows where others have 2: its example becomes part of the model" in said
    assert "note: anchored: input '2' has no axes" in said
    assert [len(tensor) for tensor in given.inputs] == [2]
    assert torch.equal(given.model()(*given.inputs), net(*example))
    assert set(net.state_dict()) == set(given.model().state_dict())


def test_a_model_by_name_goes_through_every_stage_with_its_names_in_the_file(tmp_path: Path) -> None:
    given = sample()
    assert [tuple(tensor.shape) for tensor in given.inputs] == [(2, 6), (2, 6)]
    out = tmp_path / "out"
    made = ec.compress(given, out, selector=Budget(0.7), tuning=ec.FineTuning(epochs=1, distill=0.5), calibrate=16)
    assert made.cost.compressed.macs < 0.7 * made.cost.dense.macs
    dense = given.model()
    artifact = ec.export(dense, given, tmp_path)
    assert [spec.name for spec in artifact.inputs] == ["input_ids", "attention_mask"]
    assert [spec.name for spec in artifact.outputs] == ["logits", "hidden"]
    assert artifact.score is not None
    assert ec.verify(artifact, given).parity
    assert set(artifact.golden()[0]) == {"input_ids", "attention_mask"}


def test_items_of_another_form_are_refused() -> None:
    other = Sample("mine", "mine", Encoder, words(2), lambda _split: [({"ids": torch.ones(6)}, 0)] * 4)
    with pytest.raises(DataError, match="not of the form of example"):
        ec.calibration_of(other, 2, seed=0)
