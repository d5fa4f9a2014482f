"""Weights and sealed programs given as MODEL: what they are, and the lines that make a model of them."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgecompress.cli import run_command_line
from edgecompress.errors import ModelError
from edgecompress.sources import resolve


class Spring:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def said(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        resolve(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def test_a_state_dict_says_its_tensors_and_what_to_write(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(3, 2)).state_dict()
    for name, older in (("new.pt", True), ("old.pth", False)):
        torch.save(state, tmp_path / name, _use_new_zipfile_serialization=older)
        assert "is a state dict (2 tensors: 0.weight, 0.bias ...)" in said(tmp_path / name)
    save_file(state, tmp_path / "net.safetensors")
    message = said(tmp_path / "net.safetensors")
    assert "2 tensors: 0." in message
    assert "`edgecompress init my_model.py --weights" in message
    assert "\n" not in message
    assert "no such file" in said(tmp_path / "none.pt")


def test_a_pickled_module_is_named_and_not_loaded(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 2)), tmp_path / "module.pt")
    assert "a pickled object of torch.nn.modules.container.Sequential" in said(tmp_path / "module.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Spring(tmp_path / "sprung"), protocol=2))
    assert "which runs code of its own" in said(tmp_path / "evil.pt")
    assert "`torch.save(model.state_dict(), 'weights.pth')`" in said(tmp_path / "evil.pt")
    assert run_command_line(["init", str(tmp_path / "mine.py"), "--weights", str(tmp_path / "evil.pt")]) == 2
    assert not (tmp_path / "mine.py").exists()
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "broken.ckpt").write_bytes(b"\x00 nothing")
    assert "state dict (no names" in said(tmp_path / "broken.ckpt")


@pytest.mark.parametrize(
    ("member", "says"),
    [
        ("net/archive_format", "is a program of torch.export, which is read where its name ends in .pt2"),
        ("net/code/__torch__.py", "is a TorchScript program, whose layers are sealed"),
    ],
)
def test_sealed_programs_are_named(member: str, says: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "net.pt", "w") as archive:
        archive.writestr(member, "pt2")
    assert says in said(tmp_path / "net.pt")
    if "code" in member:
        assert says in said((tmp_path / "net.pt").rename(tmp_path / "net.ts"))


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors", "sub/net.pt", "../away.pt"])
def test_a_model_file_is_written_that_loads_them(name: str, tmp_path: Path) -> None:
    place = tmp_path / "here"
    (place / "sub").mkdir(parents=True)
    net = nn.Sequential(nn.Linear(3, 2))
    save = save_file if name.endswith(".safetensors") else torch.save
    save(net.state_dict(), place / name)
    (place / "their_code.py").write_text(
        "from torch import nn\nclass Net(nn.Sequential):\n    def __init__(self): super().__init__(nn.Linear(3, 2))\n"
    )
    assert run_command_line(["init", str(place / "mine.py"), "--weights", str(place / name)]) == 0
    text = (place / "mine.py").read_text()
    (place / "mine.py").write_text(text.replace("1, 3, 224, 224", "1, 3"))
    assert torch.equal(resolve(str(place / "mine.py")).model()[0].weight, net[0].weight)
    assert run_command_line(["init", str(place / "mine.py")]) == 2, "it is there"


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_weights_that_were_saved_with_a_wrapper_are_loaded_without_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `nn.DataParallel(net).state_dict()` has them: every name begins with module."""
    monkeypatch.chdir(tmp_path)
    net = nn.Sequential(nn.Linear(3, 2))
    (save_file if name.endswith("safetensors") else torch.save)(nn.DataParallel(net).state_dict(), tmp_path / name)
    assert run_command_line(["init", "mine.py", "--weights", name]) == 0
    text = (tmp_path / "mine.py").read_text().replace("1, 3, 224, 224", "1, 3")
    (tmp_path / "mine.py").write_text(text.replace("net = Net()", "net = torch.nn.Sequential(torch.nn.Linear(3, 2))")
                                      .replace("from their_code import Net", ""))  # fmt: skip
    assert torch.equal(resolve(str(tmp_path / "mine.py")).model()[0].weight, net[0].weight)


@pytest.mark.parametrize(("file", "weights", "says"), [
    ("mine.py", "none.pth", "none.pth: no such file"),
    ("mine.py", "their.txt", "their.txt: no file of weights"),
    ("mine.pth", "their.txt", "mine.pth: a model file is Python; name it mine.py"),
])  # fmt: skip
def test_what_init_refuses(
    file: str, weights: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("their.txt").touch()
    assert run_command_line(["init", file, "--weights", weights]) == 2
    assert says in capsys.readouterr().err
