"""Files are whole or not there, and never trusted for what they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save

from edgecompress.errors import FileError
from edgecompress.files import (
    check_version,
    dump_json,
    load_weights,
    make_folder,
    read_json,
    save_weights,
    several_aside,
    write_json,
    write_text,
    written_aside,
    zipped_bytes,
)


def test_text_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")

    def stop_halfway() -> None:
        with written_aside(file) as partial:
            partial.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_halfway()
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_a_clear_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write_text(file, "old")
    full = Path("/dev/full")
    with pytest.raises(FileError, match=r"a\.txt: no space left on device"), written_aside(file):
        full.write_text("x" * 100_000)
    assert file.read_text() == "old"


def test_weights_on_a_full_disk_are_a_clear_error_and_leave_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    file = tmp_path / "a.safetensors"
    save_weights(file, {"a": torch.ones(2)})
    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(FileError, match=r"a\.safetensors: no space left on device; free some space"):
        save_weights(file, {"a": torch.zeros(2)})
    assert torch.equal(load_weights(file)["a"], torch.ones(2))
    assert [entry.name for entry in tmp_path.iterdir()] == [file.name]


def test_weights_are_written_as_safetensors_would_and_may_be_read_by_whoever_may_read_other_files(
    tmp_path: Path,
) -> None:
    state = {
        "b": torch.randn(3, 4),
        "a": torch.ones(5).double(),
        "none": torch.zeros(0, 3),
        "half": torch.ones(2).half(),
    }
    save_weights(tmp_path / "a.safetensors", {**state, "again": state["b"], "turned": state["b"].T})
    expected = {**state, "again": state["b"].clone(), "turned": state["b"].T.contiguous()}
    assert (tmp_path / "a.safetensors").read_bytes() == save(expected)
    write_text(tmp_path / "other.txt", "")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other.txt").stat().st_mode


def test_json_round_trip_keeps_numbers_on_one_line(tmp_path: Path) -> None:
    document = {"runs": [1.5, 2e-07, -3], "nested": [[1, 2], [3]], "text": ["a, b"], "empty": []}
    write_json(tmp_path / "a.json", document)
    assert read_json(tmp_path / "a.json") == document
    assert '"runs": [1.5, 2e-07, -3]' in dump_json(document)


def test_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"a": float("nan")})


@pytest.mark.parametrize(("text", "says"), [("{", "not a JSON document"), ("[1]", "an object was expected")])
def test_unreadable_json_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    with pytest.raises(FileError, match=says) as caught:
        read_json(file)
    assert str(file) in str(caught.value)


def test_unknown_versions_are_refused() -> None:
    with pytest.raises(FileError, match="version 2"):
        check_version({"kind": "k", "version": 2}, "k", 1)
    with pytest.raises(FileError, match="'other'"):
        check_version({"kind": "other", "version": 1}, "k", 1)


def test_weights_round_trip_byte_identical(tmp_path: Path) -> None:
    state = {"b": torch.randn(3, 4).T, "a": torch.arange(3)}
    for name in ("one", "two"):
        save_weights(tmp_path / name, state)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    loaded = load_weights(tmp_path / "one")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("old_format", [True, False])
def test_a_pickle_is_refused_and_never_opened(tmp_path: Path, old_format: bool) -> None:
    file = tmp_path / "model.safetensors"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=not old_format)
    with pytest.raises(FileError, match="a pickle, which can run code"):
        load_weights(file)


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(file, {"a": torch.randn(100)})
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(FileError, match="not a whole safetensors file"):
        load_weights(file)
    with pytest.raises(FileError, match="no such file"):
        load_weights(tmp_path / "missing.safetensors")


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(FileError, match=r"cannot write to .*file.*choose another folder"):
        make_folder(file / "below")


def test_zipped_size_is_that_of_deflate(tmp_path: Path) -> None:
    file = tmp_path / "zeros"
    file.write_bytes(bytes(3_000_000))
    assert 0 < zipped_bytes(file) < 10_000


def test_several_files_move_together_and_replace_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with several_aside(tmp_path / "m.onnx") as aside:
            for name in ("m.onnx", "m.bin", "m.onnx.json"):
                aside.with_name(name).write_text("new")

    (tmp_path / "m.bin").write_text("mine")
    with pytest.raises(FileError, match=r"m\.bin: is in the way"):
        write()
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.bin"]
    assert (tmp_path / "m.bin").read_text() == "mine"
    (tmp_path / "m.bin").unlink()
    write()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.bin", "m.onnx", "m.onnx.json"]


def test_what_a_killed_process_left_goes_and_nothing_that_looks_alike(tmp_path: Path) -> None:
    left, alike = ".a*.999999999.partial", (".a*.x.partial", ".ab.999999999.partial", ".a*.1.2.partial", "a*.9.partial")
    for name in (left, *alike):
        (tmp_path / name).write_text("x")
    write_text(tmp_path / "a*", "new")
    assert {entry.name for entry in tmp_path.iterdir()} == {"a*", *alike}


@pytest.mark.parametrize("name", ["pipe", "/dev/null"])
def test_a_device_or_a_pipe_is_never_replaced(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="is no regular file, which is never replaced"):
        write_text(tmp_path / name, "x")
    assert Path("/dev/null").is_char_device()
