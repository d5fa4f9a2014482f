"""The package as it is installed: lazy, whole, and the same from a wheel."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import types
import venv
from pathlib import Path

import pytest

import edgecompress
from edgecompress.bundling import checking
from tests.processes import ROOT

ALONE = {"OMP_NUM_THREADS": "1"}
"""The environment of a process that knows nothing of this one."""
SOURCES = sorted((ROOT / "edgecompress").rglob("*.py"))


def test_importing_the_package_does_not_import_torch() -> None:
    light = "edgecompress, edgecompress.cli, edgecompress.errors, edgecompress.settings, edgecompress.platforms.pi"
    code = f"import sys, {light}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_no_runtime_reports_to_its_vendor(tmp_path: Path) -> None:
    code = "import edgecompress, onnxruntime; print(onnxruntime.__version__)"
    plain = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    places = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=plain | places, check=True, capture_output=True)
    assert list(tmp_path.iterdir()) == []
    for script in ("deploy/runners/runtimes.py", "deploy/pi/run.py"):
        text = (ROOT / script).read_text()
        assert text.index("ORT_DISABLE_TELEMETRY") < text.index("import onnxruntime")


def test_every_public_name_is_there_and_documented() -> None:
    for name in edgecompress.__all__:
        public = getattr(edgecompress, name)
        assert public.__doc__, name
        if inspect.isfunction(public):
            undescribed = [each for each in inspect.signature(public).parameters if f" {each}:" not in public.__doc__]
            undescribed = [each for each in undescribed if f"*{each}:" not in public.__doc__]
            assert undescribed == [], name
            assert "Returns:" in public.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgecompress.nothing


def test_a_path_may_be_text_everywhere() -> None:
    for name in edgecompress.__all__:
        public = getattr(edgecompress, name)
        methods = inspect.getmembers(public, callable) if inspect.isclass(public) else [(name, public)]
        for method, function in methods:
            if method.startswith("_") or not (inspect.isfunction(function) or inspect.ismethod(function)):
                continue
            kinds = [str(one.annotation) for one in inspect.signature(function).parameters.values()]
            assert not [kind for kind in kinds if "Path" in kind and "str" not in kind], f"{name}, {method}"


def test_text_goes_through_where_files_are_made(tmp_path: Path) -> None:
    file = str(ROOT / "tests" / "data" / "small_model" / "model.onnx")
    assert edgecompress.Artifact.load(file).path == Path(file)
    assert edgecompress.bundle(file, f"{tmp_path}/app", platform="pi") == tmp_path / "app" / "manifest.json"
    checking.check(f"{tmp_path}/app")
    plan = edgecompress.CompressionPlan.load(str(ROOT / "tests/data/version_0_1/run/plan.json"))
    plan.save(f"{tmp_path}/plan.json")
    assert edgecompress.CompressionPlan.load(f"{tmp_path}/plan.json") == plan


def test_public_names_are_listed_once_more_for_readers() -> None:
    tree = ast.parse((ROOT / "edgecompress" / "__init__.py").read_text())
    (shown,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {node.names[0].name: node.module for node in shown.body if isinstance(node, ast.ImportFrom)}
    assert homes == {name: f"edgecompress.{home}" for name, home in edgecompress._HOMES.items()}
    assert edgecompress.__all__ == sorted(edgecompress._HOMES)
    assert [name for name in dir(edgecompress) if not name.startswith("_")] == edgecompress.__all__


def test_public_names_say_what_they_take_and_give() -> None:
    for name in edgecompress.__all__:
        public = getattr(edgecompress, name)
        text, taken = str(public.__doc__), []
        if isinstance(public, types.FunctionType):
            assert "Args:" in text, name
            assert "Returns:" in text, name
            taken = list(inspect.signature(public).parameters)
        elif dataclasses.is_dataclass(public):
            taken = [field.name for field in dataclasses.fields(public) if field.name in public.__annotations__]
        said = set(re.findall(r"^        \**(\w+): ", text, re.MULTILINE))
        assert {one for one in taken if not one.startswith("_")} <= said, name


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
    shown = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {file.name for file in (ROOT / "edgecompress").glob("[a-z]*.py")}
    rooms |= {f"{file.parent.name}/" for file in (ROOT / "edgecompress").glob("*/__init__.py")}
    assert {room for room in rooms if room not in shown} == set()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose ``venv`` has the package from its wheel, and this environment's libraries."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("edgecompress-*.whl")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(install, check=True, capture_output=True)
    _share_dependencies(python)
    return folder


def test_a_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    """With the samples, what bundles are made of, and the bench script; nothing of it is found in the checkout."""
    script, python = (installed / "venv" / "bin" / name for name in ("edgecompress", "python"))
    lenet = edgecompress.resolve("lenet5")
    file = edgecompress.export(lenet.model(), dataclasses.replace(lenet, splits=None), tmp_path / "out").path
    for line in (["plan", "lenet5", "--calibrate", "0"], ["bundle", file, "-o", "app"]):
        done = subprocess.run([script, *line], cwd=tmp_path, capture_output=True, text=True, check=False, env=ALONE)
        assert done.returncode == 0, done.stderr
    code = "from edgecompress.targets.runtimes import bench_script as b; b().stat(); import edgecompress as e"
    where = _output([python, "-c", f"{code}; print(e.__file__)"], tmp_path)
    assert str(installed) in where


SCRIPT = """
import edgecompress as ec

plan: ec.CompressionPlan = ec.LayerPlan  # type: ignore[assignment]
wrong: str = ec.resolve("lenet5").inputs  # type: ignore[assignment]
"""
"""The ignore is needed only if types arrive: unknown ones could be assigned to anything, and --strict would say so."""


@pytest.mark.slow
def test_a_wheel_brings_its_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    files = ["script.py", *sorted((ROOT / "examples").glob("*.py"))]
    if (ROOT / ".mypy_cache").is_dir():  # of `make types`: saves reading torch again
        shutil.copytree(ROOT / ".mypy_cache", installed / "cache")
    options = ["--strict", "--python-executable", installed / "venv" / "bin" / "python"]
    cache = ["--cache-dir", installed / "cache", "--config-file", ROOT / "pyproject.toml"]
    assert "no issues" in _output([sys.executable, "-m", "mypy", *options, *cache, *files], tmp_path)


def _output(command: list[str | Path], folder: Path) -> str:
    """What it prints, away from the checkout: no ``PYTHONPATH``."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=ALONE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _share_dependencies(python: Path) -> None:
    """Let the new environment see this one's libraries (not this checkout): torch again would take minutes."""
    query = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    theirs = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    (Path(theirs) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
