"""What the tests of Android's bundle share: a bundle, and the module compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.bundling import bundle
from edgecompress.platforms.android import Android
from tests.bundling.small import small_artifact
from tests.platforms.android.toolchain import HERE, MODULE, compile_kotlin, libraries


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model that takes images."""
    folder = tmp_path_factory.mktemp("android")
    bundle(small_artifact(folder).path, folder / "app", platform="android")
    return folder / "app"


@pytest.fixture(scope="session")
def payload(made: Path) -> Path:
    """What of it lies in the app."""
    return made / Android.payload


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole module, its tests and what these tests ask, compiled against the real AAR and Android."""
    to = tmp_path_factory.mktemp("classes") / "all"
    done = compile_kotlin([*sorted(MODULE.rglob("*.kt")), *sorted(HERE.glob("*.kt"))], libraries(), to)
    assert done.returncode == 0, done.stderr
    assert (to / "edge/model/CheckActivity.class").is_file()
    return to
