"""This machine as a device: what a child process leaves behind."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from edgecompress.devices.local import LocalSession
from edgecompress.errors import DeviceError

MAKES_FILES = "import sys, tempfile, time; tempfile.mkdtemp(); print(tempfile.gettempdir(), flush=True); time.sleep({})"


def test_a_killed_child_leaves_no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a bench with the runtime's profile half written, which its own `with` no longer removes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    session = LocalSession("local")
    printed = session.run([sys.executable, "-c", MAKES_FILES.format(0)], timeout_s=60)
    assert Path(printed.strip()).parent == tmp_path
    with pytest.raises(DeviceError, match="gave no answer within 1 s"):
        session.run([sys.executable, "-c", MAKES_FILES.format(600)], timeout_s=1)
    assert not list(tmp_path.iterdir())
