"""Swift for tests of what goes into apps for iOS: Debian 13's, in a root of its own. ``python -m`` sets it up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgecompress.devices.emulated.spec import cache_folder
from edgecompress.files import written_aside
from tests.platforms.onnxruntime_c import library

PACKAGES = ("swiftlang", "libc6-dev", "libstdc++-14-dev", "libonnxruntime-dev", "ca-certificates")


def root() -> Path:
    """``EDGECOMPRESS_SWIFT_ROOT``, or a folder of the cache."""
    own = os.environ.get("EDGECOMPRESS_SWIFT_ROOT")
    return Path(own) if own else cache_folder() / "swift-trixie"


def is_there() -> bool:
    """Whether Swift is set up."""
    return os.path.lexists(root() / "usr" / "bin" / "swift")  # a link within that root


def set_up() -> str:
    """Download and unpack 2.8 GB; returns what is missing for it, or nothing."""
    missing = [name for name in ("debootstrap", "chroot", "unshare", "mount") if shutil.which(name) is None]
    if is_there() or missing or os.geteuid() != 0:
        return "" if is_there() else f"Swift needs root, and apt-get install {' '.join(missing) or 'nothing more'}"
    root().parent.mkdir(parents=True, exist_ok=True)
    with written_aside(root()) as partial:
        subprocess.run(["debootstrap", "--variant=minbase", "trixie", str(partial)], check=True)
        install = f"apt-get update -q && apt-get install -y -q --no-install-recommends {' '.join(PACKAGES)}"
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive"]
        subprocess.run([*quiet, "chroot", str(partial), "sh", "-c", install], check=True)
        (partial / "w").mkdir()
    return ""


def require() -> None:
    """Skip the test where Swift is not here."""
    if not is_there() or os.geteuid() != 0:
        pytest.skip("Swift is not here: make test-ios sets it up (root, debootstrap, 2.8 GB)")


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script of ``sh`` in that root; ``folder`` is ``/w`` there, its ``lib`` holds ONNX Runtime."""
    require()
    mounts = 'mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && mount --bind "$2" "$1/w"'
    inside = 'exec chroot "$1" env -i HOME=/tmp PATH=/usr/bin:/bin LD_LIBRARY_PATH=/w/lib sh -c "cd /w; $3" "$@"'
    argv = ["unshare", "-m", "sh", "-c", f"{mounts} && {inside}", "sh", str(root()), str(folder), script, *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def checked(folder: Path, script: str) -> str:
    """What it prints; it has to succeed."""
    done = run(folder, script)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def put_runtime(folder: Path) -> None:
    """ONNX Runtime of the wheel into ``folder/lib``, under the names that are linked and loaded."""
    (folder / "lib").mkdir()
    shutil.copyfile(library(), folder / "lib" / "libonnxruntime.so.1")
    (folder / "lib" / "libonnxruntime.so").symlink_to("libonnxruntime.so.1")


def sources(folder: Path, *names: str) -> Sequence[Path]:
    """The Swift files in folders of a folder."""
    return [file for name in names for file in sorted((folder / name).glob("*.swift"))]


if __name__ == "__main__":
    sys.exit(set_up() or None)
