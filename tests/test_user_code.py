"""Whatever is wrong with the user's functions ends in one line that names the function, the file and the line."""

# ruff: noqa: E501 - a table of code and of what is said of it

from __future__ import annotations

import re
import warnings
from textwrap import dedent

import pytest
import torch
from torch import nn

from edgecompress import cli
from edgecompress.calibrating import calibration_of
from edgecompress.cli import run_command_line
from edgecompress.errors import DataError, ModelError
from edgecompress.finetuning import FineTuning, finetune
from edgecompress.models import Sample
from edgecompress.models.calling import call
from edgecompress.models.datasets import batches, take
from edgecompress.scoring import score
from edgecompress.sources import resolve

MODEL = """

import sys, torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
def model(): return nn.Linear(8, 4)
def example(): return torch.randn(2, 8)
def data(split): return TensorDataset(torch.randn(24, 8), torch.arange(24) % 4)
"""


def sample_with(tmp_path, more):
    file = tmp_path / "own.py"
    file.write_text(MODEL + dedent(more))
    return resolve(str(file))


def everything(sample):
    """What the stages ask of a sample's functions."""
    model = sample.model()
    calibration_of(sample, 8, 0)
    finetune(model, sample, FineTuning(epochs=1, batch_size=8))
    score(model, sample)


BAD = {
    "dicts": ("def data(split): return [{'x': torch.randn(8), 'y': 0}] * 9", r"item \d of data\('train'\) \(defined at own.py:9\) is a dict"),
    "triples": ("def data(split): return [(torch.randn(8), 1, 2)] * 9", r"item \d of data\('train'\).* has 3 parts; an item is"),
    "bare tensors": ("def data(split): return torch.randn(9, 8)", r"item \d of data\('train'\).* is a Tensor"),
    "no targets": ("def data(split): return [(torch.randn(8), None)] * 9", r"putting the targets of data\('train'\).*NoneType"),
    "words": ("def data(split): return [(torch.randn(8), 'cat')] * 9", r"the targets of data\('train'\).* are no tensors \(list\)"),
    "words as inputs": ("def data(split): return [('a text', 1)] * 9", r"the inputs of data\('train'\).* are no tensors"),
    "targets in a dict": ("def data(split): return [(torch.randn(8), {'a': 1})] * 9", r"targets of data.*are no tensors \(dict\)"),
    "ragged": ("def data(split): return [(torch.randn(7 + i), 0) for i in range(9)]", r"putting the inputs of data\('train'\).*equal size"),
    "inputs alone": ("def data(split): return TensorDataset(torch.randn(9, 8))", r"the inputs of data\('train'\).* are no tensors \(none\)"),
    "a loader": ("def data(split): return DataLoader(TensorDataset(torch.randn(9, 8)))", r"data\('train'\).* gave a DataLoader; a dataset with length"),
    "nothing": ("def data(split): return []", r"data\('train'\).* it has no items"),
    "None": ("def data(split): return None", r"data\('train'\).* gave a NoneType"),
    "a mapping": ("def data(split): return {'a': 1}", r"item 0 of data\('train'\).* failed: KeyError: 0"),
    "a length that lies": (
        "class D(list):\n    def __len__(self): return 40\ndef data(split): return D([(torch.randn(8), 1)] * 3)",
        r"item \d+ of data\('train'\).* failed: IndexError",
    ),
    "no length": (
        "class D(list):\n    def __len__(self): raise OSError('disc')\ndef data(split): return D()",
        r"the length of data\('train'\) failed: OSError: disc \(at own.py:10\)",
    ),
    "an item that fails": (
        "class D(list):\n    def __getitem__(self, i): return 1 / 0\ndef data(split): return D([1, 2])",
        r"item \d of data\('train'\).* failed: ZeroDivisionError: division by zero \(at own.py:10\)",
    ),
    "batches that are too short": (
        "class D(list):\n    def batch(self, i): return torch.randn(1, 8), torch.zeros(1)\ndef data(split): return D([1] * 9)",
        r"the inputs of data\('train'\).* have shape \(1, 8\) for 8 items",
    ),
    "one split is missing": ("def data(split): return {'train': [(torch.randn(8), 0)]}[split]", r"data\('validation'\) failed: KeyError: 'validation' \(at own.py:9\)"),
    "the wrong arguments": ("def data(): return []", r"data\('train'\) failed: TypeError: data\(\) takes 0 positional"),
    "loss of a batch": ("def loss(o, t): return o", r"loss\(outputs, targets\) \(defined at own.py:9\) gave a float32 tensor of shape \(8, 4\)"),
    "loss as a number": ("def loss(o, t): return 0.5", r"loss\(outputs, targets\).* gave a float"),
    "loss of nothing": ("def loss(o, t): pass", r"loss\(outputs, targets\).* gave None"),
    "loss without gradients": ("def loss(o, t): return (o.argmax(1) == t).float().mean()", r"gave a tensor without gradients"),
    "loss that fails": ("def loss(o, t):\n    return o.nothing()", r"loss\(outputs, targets\) failed: AttributeError.*\(at own.py:10\)"),
    "score of nothing": ("def score(o, t): pass", r"score\(outputs, targets\) \(defined at own.py:9\) gave None; a number"),
    "score in words": ("def score(o, t): return 'good'", r"score\(outputs, targets\).* gave a str"),
    "two scores": ("def score(o, t): return torch.ones(2)", r"score\(outputs, targets\).* gave a Tensor of shape \(2,\)"),
    "score of NaN": ("def score(o, t): return float('nan')", r"score\(outputs, targets\).* gave nan; a finite number"),
    "augment of nothing": ("def augment(x, g): pass", r"augment\(inputs, generator\) \(defined at own.py:9\) gave NoneType"),
    "augment of fewer": ("def augment(x, g): return x[:2]", r"augment\(inputs, generator\).* gave \(2, 8\) for inputs of shape \(8, 8\)"),
    "augment of more": ("def augment(x, g): return x, x", r"augment\(inputs, generator\).* gave \(8, 8\), \(8, 8\) for"),
    "augment of another size": ("def augment(x, g): return x[:, :3]", r"running the model on its data failed: RuntimeError"),
    "model that ends": ("def model(): sys.exit('bye')", r"model\(\) called sys.exit\('bye'\)"),
    "model of nothing": ("def model(): pass", r"model\(\) \(defined at own.py:9\) gave a NoneType"),
    "model without end": ("def model(): return model()", r"model\(\) failed: RecursionError.*\(at own.py:9\)"),
    "model too large": ("def model(): raise MemoryError", r"model\(\): out of memory; use fewer"),
    "an odd error": ("class Odd(BaseException): pass\ndef model(): raise Odd('?')", r"model\(\) failed: Odd: \? \(at own.py:10\)"),
    "a warning": ("import warnings\ndef model():\n    warnings.simplefilter('error'); warnings.warn('old')", r"UserWarning: old \(at own.py:11\)"),
    "gradient that fails": (
        """
        class Half(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x * 2
            @staticmethod
            def backward(ctx, g): raise ValueError('no way back')
        class Net(nn.Module):
            def __init__(self): super().__init__(); self.fc = nn.Linear(8, 4)
            def forward(self, x): return Half.apply(self.fc(x))
        def model(): return Net()
        """,
        r"the gradient of its loss failed: ValueError: no way back \(at own.py:14\)",
    ),
    "only in training": (
        """
        class Net(nn.Linear):
            def forward(self, x): return super().forward(x if not self.training else None)
        def model(): return Net(8, 4)
        """,
        r"running the model on its data failed: TypeError",
    ),
    "outputs that do not fit": (
        """
        class Net(nn.Linear):
            def forward(self, x): return super().forward(x)[:, : len(x)]
        def model(): return Net(8, 4)
        def data(split): return TensorDataset(torch.randn(257, 8), torch.zeros(257).long())
        def loss(o, t): return o.mean()
        """,
        r"putting the outputs of all batches together failed: RuntimeError",
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("code", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named(tmp_path, code, said):
    with pytest.raises(ModelError) as raised:
        everything(sample_with(tmp_path, code))
    assert re.search(said, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, DataError) == bool(re.search(r"of data|data\\\(", said))


def test_good_functions_of_every_kind_are_taken(tmp_path):
    everything(
        sample_with(
            tmp_path,
            """
            class Items:
                def __len__(self): return 24
                def __getitem__(self, i):
                    if i > 23: raise IndexError
                    return [torch.randn(8, dtype=torch.float64), i % 4]
            def data(split): return Items()
            def loss(o, t): return nn.functional.cross_entropy(o, t).reshape(1)
            def score(o, t): return torch.tensor([0.5])
            def augment(x, g): return (x.double(),)
            """,
        )
    )


def test_inputs_in_float64_come_in_float32_and_whole_numbers_as_they_are(tmp_path):
    sample = sample_with(
        tmp_path, "def data(split): return [((torch.randn(8).double(), torch.ones(3).int()), 1.0)] * 5"
    )
    (floats, whole), targets = take(sample.data("train"), torch.arange(5))
    assert (floats.dtype, whole.dtype, targets.dtype) == (torch.float32, torch.int32, torch.float64)
    (floats, _), _ = next(batches([((torch.randn(8).double(), torch.ones(3)), 1.0)] * 5, 2))
    assert floats.dtype == torch.float32


def test_ctrl_c_in_user_code_stays_ctrl_c():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call("x", "model()", interrupted)


def test_what_user_code_sets_for_the_process_is_undone():
    def changing():
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)

    call("x", "model()", changing)
    assert torch.get_default_dtype() == torch.float32
    assert torch.is_grad_enabled()


def test_warnings_that_user_code_makes_errors_are_warnings_again(tmp_path):
    with warnings.catch_warnings():
        warnings.resetwarnings()
        sample_with(
            tmp_path, "import warnings\nwarnings.simplefilter('error')\nwarnings.filterwarnings('ignore', 'own')"
        )
        assert [known[0] for known in warnings.filters] == ["ignore"]
        with pytest.warns(UserWarning, match="later"):
            warnings.warn("later", stacklevel=1)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (AssertionError("never"), 70, r"unexpected AssertionError: never \(.*test_user_code.py:\d+\); this is a defect"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory"), 2, "out of memory .* --calibrate"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)  # fmt: skip
def test_what_is_no_error_of_ours_has_an_exit_code_of_its_own(monkeypatch, capsys, error, code, said):
    def failing(*_, **__):
        raise error

    monkeypatch.setattr(cli.group, "main", failing)
    assert run_command_line(["list", "methods"]) == code
    assert re.search(said, capsys.readouterr().err)


def test_the_help_and_the_docs_tell_the_exit_code_of_a_defect():
    from pathlib import Path

    assert "70 a defect" in cli.EPILOG
    page = Path(__file__).parents[1] / "docs" / "command_line.md"
    assert "| 70 | a defect of edgecompress itself |" in page.read_text()


def test_a_sample_made_in_python_names_its_functions_too():
    def data(split):
        return [1, 2]

    sample = Sample("mine", "mine", lambda: nn.Linear(8, 4), (torch.randn(1, 8),), data)
    with pytest.raises(
        DataError, match=r"mine: item \d of data\('train'\) \(defined at test_user_code.py:\d+\) is a int"
    ):
        calibration_of(sample, 2, 0)
