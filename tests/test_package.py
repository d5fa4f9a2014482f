"""The package as it is installed: lazy, whole, and the same from a wheel."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from processes import ROOT

import edgecompress

SOURCES = sorted((ROOT / "edgecompress").rglob("*.py"))


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, edgecompress, edgecompress.cli, edgecompress.errors; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_no_runtime_reports_to_its_vendor(tmp_path: Path) -> None:
    code = "import edgecompress, onnxruntime; print(onnxruntime.__version__)"
    plain = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    places = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=plain | places, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []
    for script in ("deploy/runners/bench.py", "deploy/pi/run.py"):
        text = (ROOT / script).read_text()
        assert text.index("ORT_DISABLE_TELEMETRY") < text.index("import onnxruntime")


def test_every_public_name_is_there_and_documented() -> None:
    for name in edgecompress.__all__:
        assert getattr(edgecompress, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgecompress.nothing


def test_deploy_imports_nothing_of_ours() -> None:
    for file in (ROOT / "deploy").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("edgecompress") for name in names), file


def test_nothing_unsafe_is_used() -> None:
    forbidden = re.compile(r"shell\s*=\s*True|pickle\.load|weights_only\s*=\s*False|(?<![.\w])eval\(|(?<![.\w])exec\(")
    for file in SOURCES:
        assert not forbidden.search(file.read_text()), file


def test_the_map_names_every_room() -> None:
    readme = (ROOT / "README.md").read_text()
    rooms = {file.name for file in (ROOT / "edgecompress").glob("[a-z]*.py")}
    rooms |= {f"{file.parent.name}/" for file in (ROOT / "edgecompress").glob("*/__init__.py")}
    assert {room for room in rooms if room not in readme} == set()


def test_a_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("edgecompress-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    _share_dependencies(python)
    script = tmp_path / "venv" / "bin" / "edgecompress"
    done = subprocess.run(
        [script, "export", "lenet5", "-o", "out"], cwd=tmp_path, capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == 0, done.stderr
    bundled = subprocess.run([script, "bundle", "out/model.onnx", "-o", "app"], cwd=tmp_path, check=False, env={})
    assert bundled.returncode == 0
    where = subprocess.run(
        [python, "-c", "import edgecompress; print(edgecompress.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path) in where.stdout


def _share_dependencies(python: Path) -> None:
    """Let the new environment see this one's libraries (not this checkout): torch again would take minutes."""
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    theirs = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    (Path(theirs) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
