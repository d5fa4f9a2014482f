"""A compressed folder is loaded bit for bit as it was written, or refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgecompress.codecs.payload import Stored, StoredLayer, from_bytes, to_bytes
from edgecompress.decomposing import decompose
from edgecompress.errors import FileError
from edgecompress.files import read_json, sha256
from edgecompress.finetuning import checkpoints
from edgecompress.models import Sample
from edgecompress.planning import plan
from edgecompress.selectors import Budget
from edgecompress.sources import resolve, samples
from edgecompress.sources.compressed_folder import (
    CODES_FILE,
    MODEL_FILE,
    PLAN_FILE,
    WEIGHTS_FILE,
    load_compressed,
    rebuilt,
    save_compressed,
)

OLD = Path(__file__).parents[1] / "data" / "compressed_lenet300"
"""A compressed model as release 0.1.0 wrote it, without digests."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-300, small, as it is written now."""
    folder, sample = tmp_path_factory.mktemp("compressed"), resolve("lenet300")
    made = plan(sample.model(), sample.inputs, Budget(0.02), multiple=1, name=sample.name)
    save_compressed(folder, decompose(sample.model(), made), made, sample)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(written, tmp_path / "copy")


def test_the_digests_and_types_are_written_down(written: Path) -> None:
    document = read_json(written / MODEL_FILE)
    assert document["sha256"] == {name: sha256(written / name) for name in (PLAN_FILE, WEIGHTS_FILE)}
    assert document["dtypes"] == {"float32": len(load_file(written / WEIGHTS_FILE))}
    assert load_compressed(written).model()(resolve("lenet300").inputs[0]).isfinite().all()


@pytest.mark.parametrize("name", [PLAN_FILE, WEIGHTS_FILE])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.999])
def test_a_flipped_bit_is_found(folder: Path, name: str, at: float) -> None:
    content = bytearray((folder / name).read_bytes())
    content[int(at * len(content))] ^= 1
    (folder / name).write_bytes(bytes(content))
    with pytest.raises(FileError, match=rf"{name}: .*(changed or damaged since it was written|not a JSON document)"):
        load_compressed(folder).model()


def changed(folder: Path, change: Callable[[Tensor], Tensor], *, told: bool) -> None:
    """Change the largest weight; ``told``: so that ``model.json`` knows the new file."""
    state = load_file(folder / WEIGHTS_FILE)
    name = max(state, key=lambda name: state[name].numel())
    save_file({**state, name: change(state[name])}, folder / WEIGHTS_FILE)
    if told:
        document = read_json(folder / MODEL_FILE)
        document["sha256"][WEIGHTS_FILE] = sha256(folder / WEIGHTS_FILE)
        (folder / MODEL_FILE).write_text(json.dumps(document))


def spoilt(value: float) -> Callable[[Tensor], Tensor]:
    """One number replaced."""

    def change(tensor: Tensor) -> Tensor:
        tensor.view(-1)[-1] = value
        return tensor

    return change


CHANGES: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (spoilt(float("nan")), "holds NaN or infinity"),
    "infinity": (spoilt(float("inf")), "holds NaN or infinity"),
    "minus infinity": (spoilt(float("-inf")), "holds NaN or infinity"),
    "half": (Tensor.half, "1 tensors of float16, .*were written"),
    "bfloat16": (Tensor.bfloat16, "tensors of bfloat16, .*were written"),
    "double": (Tensor.double, "tensors of float64, .*were written"),
    "integers": (Tensor.int, "tensors of int32, .*were written"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_types_and_no_numbers_are_refused(folder: Path, name: str) -> None:
    change, says = CHANGES[name]
    changed(folder, change, told=True)
    with pytest.raises(FileError, match=rf"{WEIGHTS_FILE}: .*{says}"):
        load_compressed(folder).model()


def test_a_folder_without_digests_still_loads(tmp_path: Path) -> None:
    assert set(read_json(OLD / MODEL_FILE)) == {"kind", "version", "name", "source", "plan", "weights"}
    found = load_compressed(OLD).model()
    state = load_file(OLD / WEIGHTS_FILE)
    assert all(torch.equal(tensor, state[name]) for name, tensor in found.state_dict().items())


@pytest.mark.parametrize("name", ["NaN", "infinity", "minus infinity"])
def test_a_folder_without_digests_is_refused_with_no_numbers(tmp_path: Path, name: str) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    changed(tmp_path / "old", CHANGES[name][0], told=False)
    with pytest.raises(FileError, match="holds NaN or infinity; make it again"):
        load_compressed(tmp_path / "old").model()


def test_a_folder_without_types_is_refused_with_whole_numbers_for_weights(tmp_path: Path) -> None:
    shutil.copytree(OLD, tmp_path / "old")
    changed(tmp_path / "old", Tensor.int, told=False)
    with pytest.raises(FileError, match=r"the model has torch\.float32 there"):
        load_compressed(tmp_path / "old").model()


WRONG_FIELDS = {
    "weights elsewhere": {"weights": "../model.safetensors"},
    "weights of no name": {"weights": None},
    "plan elsewhere": {"plan": "/etc/passwd"},
    "digests of another type": {"sha256": [1]},
    "a digest missing": {"sha256": {PLAN_FILE: "0"}},
    "a digest of nothing": {"sha256": {PLAN_FILE: None, WEIGHTS_FILE: None}},
    "types of another type": {"dtypes": "float32"},
    "other types": {"dtypes": {"float32": 1, "\x1b[2J": {}}},
    "codes where there are none": {"weights": CODES_FILE, "sha256": {PLAN_FILE: "0", CODES_FILE: "0"}},
}


@pytest.mark.parametrize("name", WRONG_FIELDS)
def test_a_malformed_model_file_is_one_line(folder: Path, name: str) -> None:
    (folder / MODEL_FILE).write_text(json.dumps({**read_json(folder / MODEL_FILE), **WRONG_FIELDS[name]}))
    with pytest.raises(FileError) as caught:
        load_compressed(folder).model()
    assert str(folder) in str(caught.value)
    assert str(caught.value).isprintable()


class Masked(nn.Module):
    """A mask of -inf is a buffer, as in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(32, 32)
        self.register_buffer("mask", torch.full((32,), float("-inf")))

    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(self.layer(x), self.mask)  # type: ignore[arg-type]


def test_a_mask_of_minus_infinity_is_no_damage(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Masked()
    sample = Sample("masked", "masked", lambda: model, (torch.randn(2, 32),))
    made = plan(model, sample.inputs, Budget(0.5), multiple=1)
    save_compressed(tmp_path, decompose(model, made), made, sample)
    again = rebuilt(sample, tmp_path).model()
    assert torch.equal(again.mask, model.mask)  # type: ignore[arg-type]
    changed(tmp_path, spoilt(float("-inf")), told=True)
    with pytest.raises(FileError, match=r"layer.* holds NaN or infinity"):
        rebuilt(sample, tmp_path).model()


def test_a_damaged_sample_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = samples.sample_file("lenet300", ".safetensors")
    (tmp_path / "lenet300.py").write_text("raise SystemExit('not to be loaded')")
    content = bytearray(weights.read_bytes())
    content[-5] ^= 64
    (tmp_path / "lenet300.safetensors").write_bytes(bytes(content))
    monkeypatch.setattr(samples, "sample_file", lambda name, suffix: tmp_path / f"{name}{suffix}")
    with pytest.raises(FileError, match=r"lenet300\.safetensors: missing or damaged .*install edgecompress again"):
        resolve("lenet300")


def test_a_damaged_checkpoint_starts_over(tmp_path: Path) -> None:
    file, state = tmp_path / "checkpoint.pt", {"key": "k", "model": {"w": torch.randn(100)}}
    checkpoints.save(state, file)
    whole = file.read_bytes()
    found = checkpoints.load(file, "k")
    assert found is not None
    assert torch.equal(found["model"]["w"], state["model"]["w"])  # type: ignore[index]
    for at in range(0, len(whole), 97):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        assert checkpoints.load(file, "k") is None


@pytest.mark.parametrize("field", ["scale", "step"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_codes_with_a_scale_that_is_no_number_are_refused(field: str, value: float) -> None:
    ones = np.ones(2, np.int32)
    layer = StoredLayer("a", (2, 2), (2, 2), (1, 1), 0.5, (1, 1, 1), (ones[:1], ones, ones), ones, 0.5)
    assert from_bytes(to_bytes(Stored((layer,), {}, shared=False))).layers[0].scale == 0.5
    with pytest.raises(FileError, match="a scale or a step is no number"):
        from_bytes(to_bytes(Stored((replace(layer, **{field: value}),), {}, shared=False)))
