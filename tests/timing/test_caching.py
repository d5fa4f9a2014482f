"""Times are kept by all that they depend on, in lines that no other process and no damage takes away."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import pytest

from edgecompress.errors import FileError
from edgecompress.timing import caching
from edgecompress.timing.caching import Circumstances, Timing, TimingFile, circumstances_of, known_files

HERE = Circumstances("onnx", "fp32", "onnxruntime 1.31.1", "local", "x86_64 EPYC 1234 6.1", 1, 1, 1, "abc")


def timing(rank: int = 8) -> Timing:
    return Timing("Conv2d(8, 8) of 1x8x4x4", "svd", (rank,), -0.01, 0.002, 3, 16, 0.5)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path))


def test_what_was_added_is_read_by_others() -> None:
    assert TimingFile(HERE).read() == []
    TimingFile(HERE).add([timing(8)])
    TimingFile(HERE).add([timing(16), timing(24)])
    assert TimingFile(HERE).read() == [timing(8), timing(16), timing(24)]
    (facts,) = known_files()
    assert facts["timings"] == 3
    assert circumstances_of(facts) == HERE
    assert circumstances_of({**facts, "version": caching.VERSION + 1}) is None


@pytest.mark.parametrize("field", [field.name for field in fields(Circumstances)])
def test_under_any_other_circumstance_nothing_is_known(field: str) -> None:
    TimingFile(HERE).add([timing()])
    value = getattr(HERE, field)
    assert TimingFile(replace(HERE, **{field: value + 1 if isinstance(value, int) else f"{value}x"})).read() == []


@pytest.mark.parametrize("damage", ['{"geometry": "half a li', "[]", '{"geometry": "x", "method": "svd"}', "\x00\xff"])
def test_a_damaged_line_is_left_out_with_a_warning(damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = TimingFile(HERE)
    file.add([timing(8)])
    with file.path.open("a") as stream:
        stream.write(f"{damage}\n")
    file.add([timing(16)])
    assert file.read() == [timing(8), timing(16)]
    assert "1 damaged line(s) left out; the file is written anew" in capsys.readouterr().err
    assert damage not in file.path.read_text()
    assert file.read() == [timing(8), timing(16)]
    assert capsys.readouterr().err == ""


def test_a_damaged_head_is_written_anew(capsys: pytest.CaptureFixture[str]) -> None:
    file = TimingFile(HERE)
    file.add([timing(8)])
    file.path.write_text("\n".join(["nonsense", *file.path.read_text().splitlines()[1:], ""]))
    assert known_files() == []
    assert file.read() == [timing(8)]
    assert "damaged" in capsys.readouterr().err
    assert [facts["timings"] for facts in known_files()] == [1]


def test_several_add_at_once() -> None:
    def add(rank: int) -> None:
        for _ in range(5):
            TimingFile(HERE).add([timing(rank)] * 20)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    head, *lines = TimingFile(HERE).path.read_text().splitlines()
    assert json.loads(head)["kind"] == "edgecompress.timings"
    assert len(lines) == len(TimingFile(HERE).read()) == 8 * 5 * 20


def test_a_cache_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "timings").write_text("a file in the folder's place")
    with pytest.raises(FileError, match=r"timings.*set EDGECOMPRESS_CACHE to another folder"):
        TimingFile(HERE).add([timing()])
