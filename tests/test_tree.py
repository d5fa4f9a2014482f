"""The plan of the house: folders form no circle, and modules that were moved are found by their old names."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

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
