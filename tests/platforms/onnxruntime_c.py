"""Where the header and the library of ONNX Runtime's C interface are on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from edgecompress.devices.emulated.setup import apt_options
from edgecompress.devices.emulated.spec import cache_folder
from edgecompress.files import resource

HEADER = "onnxruntime_c_api.h"
USUAL = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime")


def header_folder() -> Path:
    """What holds the header: ``ONNXRUNTIME_ROOT``, the system's, or Debian 13's package unpacked in the cache."""
    root = os.environ.get("ONNXRUNTIME_ROOT", "/nowhere")
    cached = cache_folder() / "onnxruntime-c"
    own = cached / "usr" / "include" / "onnxruntime"
    places = [Path(root, "include"), Path(root), *map(Path, USUAL), own]
    found = next((place for place in places if (place / HEADER).is_file()), None)
    if found is None and not (problem := _unpack(cached)):
        found = own
    elif found is None:
        pytest.skip(
            f"{HEADER} is not here ({problem}): set ONNXRUNTIME_ROOT to a release archive of ONNX Runtime, unpacked, "
            "or apt-get install libonnxruntime-dev (Debian 13)"
        )
    return found


def library() -> Path:
    """The one in the wheel."""
    spec = importlib.util.find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return library_in(Path(spec.origin).parent)


def library_in(package: Path) -> Path:
    """The one of a wheel that was unpacked somewhere."""
    (found,) = (package / "capi").glob("libonnxruntime.so.1.*")
    return found


def _unpack(folder: Path) -> str:
    """Debian's headers by an apt of our own, which checks signatures; returns what went wrong, or nothing."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "no apt-get, no dpkg-deb"
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for part in ("lists/partial", "archives/partial", "sources"):
            (work / part).mkdir(parents=True)
        (work / "status").touch()
        stanza = (resource("deploy") / "emulated_arm" / "debian.sources").read_text().split("\n\n")[0]
        stanza = stanza.replace("bookworm bookworm-updates", "trixie").replace("arm64", "amd64")
        (work / "sources" / "debian.sources").write_text(stanza + "\n")
        for command in (["update"], ["download", "libonnxruntime-dev"]):
            done = subprocess.run(
                ["apt-get", *apt_options(work, "amd64"), *command],
                capture_output=True,
                text=True,
                check=False,
                cwd=work,
            )
            if done.returncode:
                return (done.stderr.strip().splitlines() or ["apt-get failed"])[-1]
        (package,) = work.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    return ""
