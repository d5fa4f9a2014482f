"""The multiple that times rise in steps of is found where it is clear, and there alone."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import pytest

from edgecompress.cli import group
from edgecompress.cli.building import scope_from
from edgecompress.timing import plateaus
from edgecompress.timing.caching import Circumstances, Timing, TimingFile
from edgecompress.timing.plateaus import MULTIPLES, clear_multiple, known_multiple, measured_multiple, misfits
from edgecompress.timing.stopwatches import identity_here
from tests.processes import command

SPREAD = 0.001


def line(step: int, noise: float, seed: int = 0) -> list[Timing]:
    """Times of ranks 4, 8, ... 64 that rise in steps."""
    draw = np.random.default_rng(seed)
    shares = [0.004 * -(-rank // step) * step / 8 + noise * draw.standard_normal() for rank in range(4, 65, 4)]
    return [Timing("one", "svd", (4 * at + 4,), share, SPREAD, 1, 16) for at, share in enumerate(shares)]


@pytest.mark.parametrize("step", MULTIPLES)
@pytest.mark.parametrize("seed", range(3))
def test_steps_are_found_in_noise(step: int, seed: int) -> None:
    assert clear_multiple(misfits(line(step, SPREAD, seed))) == step


def test_what_is_not_clear_is_not_claimed() -> None:
    assert clear_multiple({}) is None
    assert clear_multiple(misfits([])) is None
    assert clear_multiple(misfits(line(8, SPREAD)[1::2])) is None  # multiples of 8 alone: 4 and 8 look the same
    assert clear_multiple({4: 10.0, 8: 9.0, 16: 30.0, 32: 90.0}) is None


def test_lines_of_several_geometries_count_together() -> None:
    faint = [Timing(f"of {seed}", "svd", one.ranks, one.share / 16, SPREAD, 1, 16)
             for seed in range(40) for one in line(16, SPREAD * 16, seed)]  # fmt: skip
    assert clear_multiple(misfits(faint)) == 16


def test_times_of_this_machine_alone_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    here = Circumstances("onnx", "fp32", "ort", "local", identity_here(), 1, 1, 1, "abc")
    TimingFile(here).add(line(16, 0.0))
    assert measured_multiple("onnx", "local") == 16
    assert measured_multiple("ncnn", "local") is None
    assert measured_multiple("onnx", "emulated:cortex-a53") is None
    monkeypatch.setattr("edgecompress.timing.stopwatches.identity_here", lambda: "another machine")
    assert measured_multiple("onnx", "local") is None


def test_without_times_runtimes_and_widths_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecompress.timing.stopwatches.flags_here", lambda: "fpu avx2 avx512f")
    assert known_multiple("onnx", "local") == 16
    assert known_multiple("coreml", "local") == plateaus.USUAL == 8
    assert known_multiple("onnx", "emulated:cortex-a53") == 8  # this machine's flags are not its
    monkeypatch.setattr("edgecompress.timing.stopwatches.flags_here", lambda: "fpu avx2")
    assert known_multiple("onnx", "local") == 8


def test_the_command_line_takes_the_multiple_that_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    TimingFile(Circumstances("onnx", "fp32", "ort", "local", identity_here(), 1, 1, 1, "abc")).add(line(32, 0.0))
    plan = group.commands["plan"]
    for words, multiple in (["--multiple", "auto"], 32), (["--multiple", "24"], 24), ([], 8):
        with plan.make_context("plan", ["lenet5", *words]) as context:
            assert scope_from(context.params, ()).multiple == multiple
    assert capsys.readouterr().err == "note: ranks are multiples of 32, for onnx on local: by timings\n"


@pytest.mark.parametrize("value", ["0", "4097", "some"])
def test_other_words_and_numbers_are_refused(value: str, tiny_file: Path) -> None:
    answer = command("plan", tiny_file, "--multiple", value)
    assert answer.code == 2
    assert "--multiple" in answer.err


def test_without_times_the_command_line_takes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr("edgecompress.timing.stopwatches.flags_here", lambda: "avx2 avx512f")
    with click.Context(click.Command("plan")):
        assert scope_from({"multiple": "auto"}, ()).multiple == 16
        assert scope_from({"multiple": 4}, ()).multiple == 4
        assert scope_from({}, ()).multiple == 8
    with click.Context(click.Command("run")) as context:
        context.params = {"targets": ("ncnn",), "device": "emulated:cortex-a53"}
        assert scope_from({"multiple": "auto"}, ()).multiple == 8
