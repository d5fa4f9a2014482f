"""The plan of the house: folders form no circle, and modules that were moved are found by their old names."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import edgecompress
from edgecompress._moved import MOVED
from tests.processes import ROOT

PACKAGE = ROOT / "edgecompress"


def room_of(module: str) -> str:
    """The folder or root file of ``edgecompress.ROOM.anything``; empty for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported_by(file: Path) -> set[str]:
    """The rooms that a file imports from, at its top or inside a function."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "edgecompress":
            names = [f"edgecompress.{alias.name}" for alias in node.names]
            found |= {room_of(name) for name in (names if node.module == "edgecompress" else [str(node.module)])}
        elif isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names if alias.name.startswith("edgecompress.")}
    return found & {path.stem for path in PACKAGE.iterdir()}


def imports_by_room() -> dict[str, set[str]]:
    """For each room, the others it imports from."""
    arrows: dict[str, set[str]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room not in ("__init__", "__main__"):
            arrows.setdefault(room, set()).update(imported_by(file) - {room})
    return arrows


def circles(arrows: dict[str, set[str]]) -> set[str]:
    """What is left when everything that imports nothing left is taken away, again and again."""
    left = {room: set(others) for room, others in arrows.items()}
    while free := {room for room, others in left.items() if not others & left.keys()}:
        left = {room: others for room, others in left.items() if room not in free}
    return set(left)


def test_rooms_form_no_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c", "a"}, "c": set()}) == {"a", "b"}
    arrows = imports_by_room()
    assert len(arrows) > 30
    assert circles(arrows) == set()


@pytest.mark.parametrize("old", MOVED)
def test_a_module_is_found_by_its_old_name(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"is now edgecompress.{MOVED[old]}"):
        module = importlib.import_module(f"edgecompress.{old}")
    assert module is importlib.import_module(f"edgecompress.{MOVED[old]}")


PUBLIC_BEFORE = {
    "": "Artifact Calibration Comparison CompressionPlan Cost EdgeCompressError Effort FineTuning LayerPlan Profile "
    "Sample bundle calibration_of compare cost decompose device_named export finetune measure merge_back plan profile "
    "recalibrate refit resolve score verify",
    "artifacts": "Artifact",
    "benching": "Effort",
    "bundling": "bundle",
    "calibrating": "Calibration calibration_of recalibrate",
    "codecs.settings": "Storage",
    "costs": "Cost cost",
    "decomposing": "decompose merge_back",
    "decompositions": "AUTO DECOMPOSITIONS Decomposition Factors Support",
    "devices": "DEVICES CountingSession Device DeviceOptions Kind Local PageSession Session device_named "
    "is_counting is_page",
    "errors": "EdgeCompressError",
    "exporting": "ExportOptions export",
    "finetuning": "FineTuning finetune",
    "models": "Sample",
    "planning": "plan",
    "plans": "CompressionPlan Cost LayerPlan",
    "profiles": "Comparison Profile",
    "profiling": "compare measure profile",
    "refitting": "refit",
    "resolving": "resolve sample_facts",
    "scoring": "score",
    "selectors": "SELECTORS Budget Candidate Choice Continuous Energy LayerCandidates Selector Vbmf",
    "targets": "PRECISIONS TARGETS Job Precision Target target_named target_of",
    "training.recipes": "RECIPES",
    "training.settings": "FineTuning",
    "verifying": "verify",
}
"""Modules of 0.1, the package itself first, and their public names."""


@pytest.mark.parametrize("old", PUBLIC_BEFORE)
@pytest.mark.filterwarnings("ignore:.* is now edgecompress:DeprecationWarning")
def test_public_names_are_where_they_were(old: str) -> None:
    module = importlib.import_module(f"edgecompress.{old}".rstrip("."))
    for name in PUBLIC_BEFORE[old].split():
        found = getattr(module, name)
        assert name not in edgecompress.__all__ or found is getattr(edgecompress, name), name


LONGEST = 320


def test_no_file_is_overfull() -> None:
    lines = {file.relative_to(PACKAGE).as_posix(): len(file.read_text().splitlines()) for file in PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > LONGEST} == {}


VALUES = {"artifacts", "cli", "manifests", "models"}
"""Folders that are neither a stage nor something to add to."""


def test_a_folder_is_a_stage_or_has_a_table() -> None:
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")} - VALUES
    stages = {name for name in folders if name.endswith("ing")}
    assert {"planning", "exporting", "running"} <= stages
    for name in sorted(folders - stages):
        table = getattr(importlib.import_module(f"edgecompress.{name}"), name.upper())
        assert len(table) > 0, name
        assert all(entry.summary and "\n" not in entry.summary for entry in table.values()), name
        assert all(getattr(entry, "name", key) == key for key, entry in table.items()), name


def test_the_root_can_be_looked_over() -> None:
    files = [file for file in PACKAGE.glob("*.py") if not file.name.startswith("_")]
    assert 10 < len(files) <= 16


def test_tests_mirror_the_package() -> None:
    folders = {file.parent.name for file in PACKAGE.glob("*/__init__.py")}
    assert {file.parent.name for file in (ROOT / "tests").glob("*/test_*.py")} <= folders
