"""``--config``: what a run writes is read again, typed options go first, and what is wrong in it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from edgecompress.cli import group
from edgecompress.cli.building import is_typed
from edgecompress.cli.configuring import written
from edgecompress.reporting.checking import LIMITS


def context(*arguments: str | Path) -> click.Context:
    return group.commands["run"].make_context("run", list(map(str, arguments)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text('model = "net.py"\nkeep = 0.5\ntarget = ["onnx", "litert"]\nmin-speedup = 1\nequalize = true\n')
    path.write_text(path.read_text().replace("equalize = true\n", "keep_float = 'head.*'\nsymmetric = false\n"))
    return path


def test_the_file_stands_for_what_was_typed(file: Path) -> None:
    with context("--config", file, "--keep", "0.25", "-o", "out") as made:
        given = made.params
        assert (given["model"], given["keep"], given["targets"]) == ("net.py", 0.25, ("onnx", "litert"))
        assert (given["min_speedup"], given["keep_float"], given["symmetric"]) == (1.0, ("head.*",), False)
        assert is_typed("targets")
        assert not is_typed("epochs")


def test_what_a_run_writes_is_read_again(tmp_path: Path) -> None:
    typed = [
        "net.py",
        "--keep",
        "0.4",
        "--exclude",
        "a'b",
        "--exclude",
        'c"d',
        "--asymmetric",
        "--bf16",
        "--threads",
        "2",
    ]
    with context(*typed, "-o", "out"):
        text = written()
    assert text.startswith("# edgecompress run net.py --keep 0.4")
    path = tmp_path / "run.toml"
    path.write_text(text)
    with context("--config", path, "-o", "other") as again, context(*typed, "-o", "other") as before:
        assert again.params == before.params
        assert "output" not in text.partition("model")[2]


WRONG: dict[str, Any] = {
    "keeep = 0.5": "no option 'keeep'; did you mean 'keep'?",
    "zzzz = 1": "no option 'zzzz'; there are ",
    "keep = ": "invalid value",
    "keep = [1, 2]": "keep: one value was expected",
    "bf16 = 1": "bf16: true or false was expected",
    "keep = 2": "2.0 is not in the range 0<x<=1",
    "target = 'onx'": "Did you mean 'onnx'",
    "output = 'here'": "no option 'output'",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_in_it_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(click.UsageError) as raised:
        context("lenet5", "--config", path, "-o", "out")
    assert WRONG[text] in raised.value.format_message()


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(click.UsageError) as raised:
        context("lenet5", "--config", "nowhere.toml", "-o", "out")
    assert "nowhere.toml: no such file or directory; a run writes one as run.toml" in raised.value.format_message()


@pytest.mark.parametrize("name", ["run", "check"])
def test_a_run_takes_every_limit_of_check(name: str) -> None:
    assert set(LIMITS) <= {str(one.name) for one in group.commands[name].params}
