"""Sixty mistakes of a newcomer: each ends in one line with the cause and the way out, none is unexpected."""

# ruff: noqa: E501 - a table of code and of what is said of it

from __future__ import annotations

import errno
import shlex
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from edgecompress.cli import group, run_command_line

GOOD = """import torch
from torch import nn
def model(): torch.manual_seed(0); return nn.Linear(8, 4)
def example(): return torch.zeros(2, 8)
"""
NETWORK, INPUT = "return nn.Linear(8, 4)", "torch.zeros(2, 8)"
FILES = {
    "good.py": GOOD,
    'syntax.py': 'def model(:\n',
    'empty.py': '',
    'nomodel.py': 'def example(): return 1\n',
    'noexample.py': 'from torch import nn\nmodel = nn.Linear(8, 4)\n',
    'imports.py': 'import nothing_like_this\n',
    'raises.py': "def model(): raise ValueError('no weights here')\nimport torch\nfrom torch import nn\ndef example(): return torch.zeros(2, 8)\n",
    'wrongshape.py': GOOD.replace(INPUT, 'torch.zeros(2, 9)'),
    'notensor.py': GOOD.replace(INPUT, "'text'"),
    'returnsnone.py': GOOD.replace(NETWORK, 'pass'),
    'returnsclass.py': GOOD.replace(NETWORK, 'return nn.Linear'),
    'statedict.py': GOOD.replace(NETWORK, 'return nn.Linear(8, 4).state_dict()'),
    'nan.py': GOOD.replace(NETWORK, "net = nn.Linear(8, 4); nn.init.constant_(net.weight, float('nan')); return net"),
    'random.py': GOOD.replace(NETWORK, 'return nn.Sequential(nn.Linear(8, 4), Noise())') + 'class Noise(nn.Module):\n    def forward(self, x): return x + torch.rand(4)\n',
    'missingweights.py': GOOD.replace(NETWORK, "net = nn.Linear(8, 4); net.load_state_dict(torch.load('gone.pth', weights_only=True)); return net"),
    'otherweights.py': GOOD.replace(NETWORK, "net = nn.Linear(8, 4); net.load_state_dict({'fc.weight': torch.zeros(4, 8)}); return net"),
    'needsargs.py': GOOD.replace("def model()", 'def model(size)'),
    'quits.py': 'import sys\nsys.exit(1)\n',
    'relative.py': 'from .net import model\n',
    'kind.py': GOOD + "outputs = 'class'\n",
    'batchless.py': GOOD.replace(INPUT, 'torch.zeros(())'),
    'notes.txt': 'hello',
    'model.h5': 'x',
    'notebook.ipynb': '{}',
    'fake.onnx': 'not onnx',
    'plan.json': '{}',
    'bad.json': '{',
    'run.toml': 'keeep = 1\n',
}  # fmt: skip
MISTAKES = {
    'inspct good.py': "Did you mean one of: 'init', 'inspect'",
    'inspect': "Missing argument 'MODEL'; as in: edgecompress inspect resnet20",
    'lenet5': "'lenet5' is a MODEL, and a command comes before it: edgecompress inspect lenet5",
    'good.py': 'edgecompress inspect good.py',
    'inspect https://somewhere/net.onnx': 'download the file and name that',
    'inspect nowhere_at_all.models:net': 'install it into ',
    'bundle lenet5 --platform pi -o app': '`edgecompress export lenet5 -o out` writes',
    'profile lenet5': '`edgecompress export lenet5 -o out` writes',
    'profile exports': 'is a folder; name a file in it, as exports/model.onnx',
    'run good.py --keep 50% -o out': "'50%' is no number; 50 % is 0.5",
    'inspect lenet6': "did you mean 'lenet5'?",
    'inspect gone.py': '`edgecompress init gone.py` writes one',
    'inspect w.pth': '`edgecompress init my_model.py --weights w.pth`',
    'inspect w.safetensors': '--weights w.safetensors',
    'inspect whole.pt': 'torch.save(model.state_dict()',
    'inspect gone.pt': 'no such file',
    'inspect notes.txt': 'A model is a sample',
    'inspect model.h5': 'A model is a sample',
    'inspect notebook.ipynb': 'A model is a sample',
    'inspect fake.onnx': 'no .onnx file, or damaged',
    'inspect folder': '`edgecompress compress` makes one',
    'inspect good.py:net': 'write `def net()',
    'inspect nothing_here:model': "cannot import 'nothing_here'",
    'inspect syntax.py': '(at syntax.py:1)',
    'inspect empty.py': 'write `def model()',
    'inspect nomodel.py': 'write `def model()',
    'inspect noexample.py': 'write `def example()',
    'inspect imports.py': '(at imports.py:1)',
    'inspect raises.py': '(at raises.py:1)',
    'inspect wrongshape.py': 'its example of shape (2, 9)',
    'inspect notensor.py': 'write `def example()',
    'inspect returnsnone.py': 'a torch.nn.Module was expected',
    'inspect returnsclass.py': 'a torch.nn.Module was expected',
    'inspect statedict.py': 'load_state_dict() that into it',
    'inspect nan.py': 'check the weights and the example',
    'inspect random.py': 'take what is random',
    'inspect missingweights.py': '(at missingweights.py:3)',
    'inspect otherweights.py': '(at otherweights.py:3)',
    'inspect needsargs.py': 'missing 1 required positional argument',
    'inspect quits.py': 'called sys.exit(1)',
    'inspect relative.py': 'put an empty __init__.py beside it',
    'inspect kind.py': "there are 'classes', 'tokens', 'values'",
    'inspect batchless.py': 'batch first',
    'plan good.py --keep 2': 'not in the range 0<x<=1',
    'plan good.py --keep 50': 'not in the range 0<x<=1',
    'plan good.py --keep half': "'half' is no number",
    'plan good.py --keep 0.5 --method tuker2': "Did you mean 'tucker2'?",
    'plan good.py --keep 0.5 --exclude nothing': 'the layer is the model itself',
    'plan good.py --keep 0.5 --select budgt': "Did you mean 'budget'?",
    'plan good.py --kep 0.5': "Did you mean '--keep'?",
    'run good.py --keep 0.5': "Missing option '-o' / '--output'; as in: edgecompress run lenet5",
    'run good.py -o out --target onx': "Did you mean 'onnx'?",
    'run good.py -o out --target onnx --platform andriod': "Did you mean 'android'?",
    'profile fake.onnx --device rasberry': "no device 'rasberry'; there are local",
    'export good.py -o out --quantize int8': 'has no data, which set the ranges of int8; define data(split), or use fp16',
    'run good.py -o out --quantize int4': "not one of 'fp32', 'fp16', 'int8'",
    'run good.py -o out --plan gone.json': 'gone.json: no such file',
    'run good.py -o out --plan plan.json': "kind 'edgecompress.plan' was expected",
    'run good.py -o out --plan bad.json': 'not a JSON document',
    'run --config run.toml -o out': "did you mean 'keep'?",
    'run --config gone.toml -o out': 'a run writes one as run.toml',
    'run good.py -o notes.txt': 'choose another folder with -o',
    'run good.py -o out --epochs -1': 'not in the range',
    'run good.py -o out --epochs 3 --log wandb': 'there are tensorboard:FOLDER and mlflow',
    'compress good.py -o out --keep 0.5 --of flops': "'flops' is not one of",
    'compress good.py -o good.py': 'choose another folder with -o',
    'export good.py -o out --target tflite': "Did you mean 'litert'?",
    'export good.py -o out --target mlpackage': "Did you mean 'coreml'?",
    'verify gone.onnx': 'no such file',
    'verify fake.onnx': 'as it is beside all that `edgecompress export` has written',
    'profile gone.onnx': 'no such file',
    'profile fake.onnx': 'not a whole ONNX model',
    'profile good.py': 'not a file any target reads',
    'compare plan.json plan.json': "kind 'edgecompress.profile' was expected",
    'check out': 'give at least one limit',
    'check plan.json --max-size-mb 1': "kind 'edgecompress.profile' was expected",
    'bundle fake.onnx --platform pi -o app': 'as it is beside all that `edgecompress export` has written',
    'report folder': 'report.json: no such file',
    'list model': "not one of 'methods'",
    'init mine.txt': 'name it mine.py',
    'init good.py': 'choose another name, or replace it with --force',
}  # fmt: skip
"""What is typed, and what the answer has."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "folder").mkdir()
    (folder / "exports").mkdir()
    (folder / "exports" / "model.onnx").touch()
    torch.save(nn.Linear(8, 4).state_dict(), folder / "w.pth")
    torch.save(nn.Linear(8, 4), folder / "whole.pt")
    save_file(nn.Linear(8, 4).state_dict(), folder / "w.safetensors")
    return folder


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_ends_in_one_line(
    typed: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", sys.path[:])
    code = run_command_line(shlex.split(typed))
    lines = capsys.readouterr().err.strip().splitlines()
    assert code in (1, 2, 3, 4)
    assert [line for line in lines if line.lower().startswith("error: ")] == lines[-1:]
    assert MISTAKES[typed] in lines[-1]
    assert not any(word in lines[-1] for word in ("unexpected", "Traceback", "defect"))


def test_there_are_sixty() -> None:
    assert len(MISTAKES) >= 60


def test_a_full_disk_of_temporary_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python names no file where writing fails; an export writes gigabytes where temporary files go."""

    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(group, "main", full)
    assert run_command_line(["doctor"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: a temporary file in {tmp_path}, or the output: no space left on device; free some")
    assert "TMPDIR=" in said
