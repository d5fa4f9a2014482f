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
    compile(message.partition("\n")[2], "my_model.py", "exec")
    assert "no such file" in said(tmp_path / "none.pt")


def test_a_pickled_module_is_named_and_not_loaded(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(3, 2)), tmp_path / "module.pt")
    assert "a pickled object of torch.nn.modules.container.Sequential" in said(tmp_path / "module.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Spring(tmp_path / "sprung"), protocol=2))
    assert "which runs code of its own" in said(tmp_path / "evil.pt")
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
