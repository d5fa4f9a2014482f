"""What is said to a name that is none: the nearest ones, and where an option is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgecompress.cli import run_command_line
from edgecompress.cli.types import nearest
from edgecompress.cli.writing import telling_what_is_left


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "lenet5", "--method", "tuker2"], "Did you mean 'tucker2'?"),
        (["plan", "lenet5", "--kep", "0.5"], "Did you mean '--keep'?"),
        (["plan", "lenet5", "--batch", "3"], "'--batch': --batch-size is an option of compress, export, profile, run."),
        (["inspect", "lenet5", "--keep", "3"], "--keep is an option of plan, search, compress, run."),
    ],
)
def test_unknown_names_get_the_nearest_or_the_reason(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command_line(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "--beta" not in error


def test_what_is_not_near_is_not_named() -> None:
    assert nearest("batch", ["beta", "keep"]) == []


def test_a_run_that_had_nothing_to_do_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*stages: str) -> str:
        with telling_what_is_left(tmp_path):
            for stage in stages:
                (tmp_path / "stages").mkdir(exist_ok=True)
                (tmp_path / "stages" / f"{stage}.json").write_text("{}")
                os.utime(tmp_path / "stages" / f"{stage}.json", ns=(0, 10**9 * len(stage)))
        return capsys.readouterr().err

    assert run("plan") == ""
    assert run() == f"nothing was left to do: {tmp_path} holds all of it, made with the same options\n"
    assert run("bundle") == ""
