"""What is finished is not done again; what changed is."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from edgecompress.errors import FileError
from edgecompress.files import Json, write_text
from edgecompress.running.locking import locked
from edgecompress.running.resuming import Stages, key_of


class Counted:
    """Work that counts how often it is done and writes a file and a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.times = folder, 0

    def __call__(self) -> Json:
        self.times += 1
        write_text(self.folder / "a.txt", "a")
        (self.folder / "b").mkdir(exist_ok=True)
        write_text(self.folder / "b" / "c.txt", "c")
        return {"times": self.times}


def test_a_finished_stage_is_not_done_again(tmp_path: Path) -> None:
    work = Counted(tmp_path)
    first = Stages(tmp_path).do("s", ["x", 1], work, ("a.txt", "b"))
    second = Stages(tmp_path).do("s", ["x", 1], work, ("a.txt", "b"))
    assert first == second
    assert work.times == 1


@pytest.mark.parametrize("change", ["inputs", "edited output", "deleted output", "damaged memory", "old memory"])
def test_what_changed_is_done_again(tmp_path: Path, change: str) -> None:
    work, stages = Counted(tmp_path), Stages(tmp_path)
    stages.do("s", [1], work, ("a.txt", "b"))
    memory = tmp_path / "stages" / "s.json"
    if change == "edited output":
        write_text(tmp_path / "b" / "c.txt", "edited")
    elif change == "deleted output":
        (tmp_path / "a.txt").unlink()
    elif change == "damaged memory":
        memory.write_text("{")
    elif change == "old memory":
        memory.write_text(memory.read_text().replace('"version": 1', '"version": 0'))
    stages.do("s", [2 if change == "inputs" else 1], work, ("a.txt", "b"))
    assert work.times == 2


def test_a_stage_that_fails_is_forgotten(tmp_path: Path) -> None:
    work, stages = Counted(tmp_path), Stages(tmp_path)
    stages.do("s", [1], work, ("a.txt",))

    def broken() -> Json:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        stages.do("s", [2], broken, ("a.txt",))
    stages.do("s", [1], work, ("a.txt",))
    assert work.times == 2


def test_keys_depend_on_every_part() -> None:
    keys = [key_of("a", 1), key_of("a", 2), key_of("b", 1), key_of("a", [1]), key_of("a", {"k": 1})]
    assert len(set(keys)) == len(keys)
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def _hold(folder: Path, ready: object, release: object) -> None:
    with locked(folder):
        ready.set()  # type: ignore[attr-defined]
        release.wait(20)  # type: ignore[attr-defined]


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, release))
    other.start()
    assert ready.wait(20)
    with pytest.raises(FileError, match="another edgecompress is at work there"), locked(tmp_path):
        pass
    release.set()
    other.join()
    with locked(tmp_path):
        pass
