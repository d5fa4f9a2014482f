"""Programs of torch.export: plain layers by their old names, the same numbers, and nothing of the file is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edgecompress as ec
from edgecompress.errors import ModelError
from edgecompress.models.forms import leaves
from edgecompress.selectors import Budget
from edgecompress.sources import resolve

LAYERS = {
    "block.0": nn.Conv2d,
    "block.1": nn.BatchNorm2d,
    "block.3": nn.Conv2d,
    "tokens": nn.Embedding,
    "attention.in_proj": nn.Linear,
    "attention.out_proj": nn.Linear,
    "head": nn.Linear,
    "mixing": nn.Linear,
    "up": nn.ConvTranspose1d,
}


class Net(nn.Module):
    """Convolutions with both kinds of padding, a norm, an attention, a table, a weight used twice, a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(16, 16))
        convolutions = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, padding="same", groups=2)
        self.block = nn.Sequential(convolutions[0], nn.BatchNorm2d(8), nn.ReLU(inplace=True), convolutions[1])
        self.tokens, self.attention = nn.Embedding(20, 16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.head, self.up = nn.Linear(16, 16), nn.ConvTranspose1d(16, 4, 4, 2, 1, output_padding=1)
        self.register_buffer("shift", torch.arange(16.0))

    def forward(self, pixels: Tensor, ids: Tensor) -> dict[str, Tensor]:
        """(N, 3, 8, 8) and (N, 5) to a dict."""
        seen = self.block(pixels).flatten(2).transpose(1, 2)
        found = torch.cat((seen, self.tokens(ids)), 1) + self.shift
        found = self.head(self.attention(found, found, found, need_weights=False)[0])
        with torch.no_grad():
            scale = found.abs().amax((1, 2), keepdim=True)
        found = self.head(found / scale).relu() @ self.mixing
        return {"pooled": found.mean(1), "steps": self.up(found.transpose(1, 2))}


def example(batch: int) -> tuple[Tensor, Tensor]:
    """Images and token ids."""
    generator = torch.Generator().manual_seed(batch)
    pixels = torch.randn(batch, 3, 8, 8, generator=generator)
    return pixels, torch.randint(0, 20, (batch, 5), generator=generator)


def made() -> nn.Module:
    """The net; its norm has seen something."""
    torch.manual_seed(0)
    net = Net()
    net.block(example(8)[0])
    return net.eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program for any batch."""
    path = tmp_path_factory.mktemp("programs") / "net.pt2"
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(made(), example(2), dynamic_shapes=({0: batch}, {0: batch})), path)
    return path


def tensors(outputs: Any) -> list[Tensor]:
    return [leaf for _, leaf in leaves(outputs)]


def test_layers_have_their_old_names_and_give_the_numbers_of_the_program_at_any_batch(file: Path) -> None:
    sample = resolve(str(file))
    model, program = sample.model(), torch.export.load(file).module()
    found = {name: type(module) for name, module in model.named_modules() if name in LAYERS}
    assert found == LAYERS
    for batch in (1, 2, 5):
        ours, theirs = tensors(model(*example(batch))), tensors(program(*example(batch)))
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in made().parameters())


def test_it_goes_through_all_stages_and_the_file_keeps_the_names(file: Path, tmp_path: Path) -> None:
    sample = resolve(str(file))
    plan = ec.plan(sample.model(), sample.inputs, Budget(0.8), multiple=1)
    assert {layer.name for layer in plan.layers} <= LAYERS.keys()
    assert plan.layers
    model = ec.decompose(sample.model(), plan).eval()
    artifact = ec.export(model, sample, tmp_path)
    assert [spec.name for spec in artifact.inputs] == ["pixels", "ids"]
    assert [spec.name for spec in artifact.outputs] == ["pooled", "steps"]
    assert artifact.parity[0].sqnr_db > 100


def test_a_program_for_one_item_is_freed_where_items_stay_apart(tmp_path: Path) -> None:
    path, net = tmp_path / "one.pt2", nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5)).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), path)
    inputs = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(resolve(str(path)).model()(inputs), net(inputs))


class Last(nn.Module):
    """A recurrence of two layers in both directions, and what it gives last."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, 4) to (N, 12)."""
        return self.steps(x)[0][:, -1]


@pytest.mark.filterwarnings("ignore:The tensor attributes")
def test_a_recurrence_for_one_item_has_a_state_for_each(tmp_path: Path) -> None:
    path, net = tmp_path / "one.pt2", Last().eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 5, 4),)), path)
    inputs = torch.randn(4, 5, 4)
    torch.testing.assert_close(resolve(str(path)).model()(inputs), net(inputs))

    def other_state(document: dict[str, Any]) -> None:
        for node in document["graph_module"]["graph"]["nodes"]:
            if node["target"] == "torch.ops.aten.zeros.default":
                node["inputs"][0]["arg"] = {"as_ints": [4, 1, 5]}

    with pytest.raises(ModelError, match=r"lstm.*a state of shape \(4, 1, 5\), its weights are for another"):
        resolve(str(rewritten(path, tmp_path / "other.pt2", in_graph(other_state))))


class Masked(nn.Module):
    """An attention that leaves out where the mask is True."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(4, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, T, 4) and (N, T) to (N, T)."""
        return self.scores(x)[..., 0].masked_fill(mask, float("-inf")).softmax(-1)


def test_a_mask_of_an_example_leaves_something(tmp_path: Path) -> None:
    path, inputs = tmp_path / "masked.pt2", (torch.randn(1, 5, 4), torch.zeros(1, 5, dtype=torch.bool))
    torch.export.save(torch.export.export(Masked().eval(), inputs), path)
    sample = resolve(str(path))
    assert torch.isfinite(sample.model()(*sample.inputs)).all()


class Rows(nn.Module):
    """Mixes the items of a batch."""

    def forward(self, x: Tensor) -> Tensor:
        """(2, 4) to (2, 4)."""
        return x - x.mean(0, keepdim=True) * x.shape[0]


def test_a_batch_that_is_fixed_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "two.pt2"
    torch.export.save(torch.export.export(nn.Sequential(nn.Linear(4, 4), Rows()), (torch.zeros(2, 4),)), path)
    assert len(resolve(str(path)).inputs[0]) == 2
    assert "was exported for a batch of 2 alone" in capsys.readouterr().err


def rewritten(file: Path, target: Path, change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> Path:
    """A copy of an archive with its parts changed."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(target, "w", how) as new:
        for name in old.namelist():
            new.writestr(name, change(name.partition("/")[2], old.read(name)))
    return target


def in_graph(change: Callable[[dict[str, Any]], None]) -> Callable[[str, bytes], bytes]:
    def changed(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return changed


def opens_a_file(document: dict[str, Any]) -> None:
    node = document["graph_module"]["graph"]["nodes"][0]
    node |= {"target": "torch.ops.aten.from_file.default", "inputs": [named("filename", as_string="secret")]}


def named(name: str, **argument: Any) -> dict[str, Any]:
    return {"name": name, "arg": argument, "kind": 1}


def to_system(document: dict[str, Any]) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "os.system"


def to_a_trusting_one(document: dict[str, Any]) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.aten.set_.source_Tensor"


def without_outputs(document: dict[str, Any]) -> None:
    del document["graph_module"]["graph"]["nodes"][3]["outputs"]


def to_a_tower(document: dict[str, Any]) -> None:
    node = document["graph_module"]["graph"]["nodes"][0]
    node |= {"target": "_operator.pow", "inputs": [named("a", as_int=10), named("b", as_int=10**10)]}


def to_schema_9(document: dict[str, Any]) -> None:
    document["schema_version"]["major"] = 9


def pickled(name: str, content: bytes) -> bytes:
    return content.replace(b'"use_pickle": false', b'"use_pickle": true') if "weights_config" in name else content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_graph(opens_a_file), "takes a text, filename"),
        (in_graph(to_system), "os.system (node"),
        (in_graph(to_a_trusting_one), "set_.source_Tensor (node"),
        (in_graph(to_a_tower), "raises a number to the power"),
        (in_graph(without_outputs), "or damaged: KeyError"),
        (in_graph(to_schema_9), "is of schema 9"),
        (pickled, "as a pickle, which could run code"),
        (lambda name, content: content[:3] if name.startswith("data/weights/weight_0") else content, "larger than its"),
        (lambda name, content: b"[" * 9 if name == "models/model.json" else content, "or damaged"),
    ],
)
def test_what_could_run_code_or_is_damaged_is_refused_in_one_line(
    file: Path, tmp_path: Path, change: Callable[[str, bytes], bytes], message: str
) -> None:
    spoilt = rewritten(file, tmp_path / "spoilt.pt2", change)
    with pytest.raises(ModelError) as caught:
        resolve(str(spoilt))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_compressed_archive_and_a_file_of_another_kind_are_refused(file: Path, tmp_path: Path) -> None:
    packed = rewritten(file, tmp_path / "packed.pt2", lambda _name, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="is compressed"):
        resolve(str(packed))
    other = tmp_path / "other.pt2"
    torch.save({"weight": torch.zeros(2)}, other)
    with pytest.raises(ModelError, match="holds no program"):
        resolve(str(other))
    with pytest.raises(ModelError, match="no such file"):
        resolve(str(tmp_path / "missing.pt2"))
