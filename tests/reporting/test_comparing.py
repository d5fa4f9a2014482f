"""What compares and what does not; a gate passes only what was measured and keeps its limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.errors import FileError
from edgecompress.files import write_json
from edgecompress.reporting.checking import LIMITS, check_table, checks
from edgecompress.reporting.comparing import (
    accuracy_difference,
    changes,
    differences,
    figures_of,
    refuse_different,
    side_by_side,
    time_ratios,
)
from edgecompress.running.history import tried
from edgecompress.split_scores import SplitScore
from tests import reports

Document = dict[str, Any]


@pytest.fixture
def document() -> Document:
    return reports.document()


def written(folder: Path, document: Document, name: str = "report.json") -> Path:
    folder.mkdir(exist_ok=True)
    write_json(folder / name, document)
    return folder / name


def test_a_run_is_read_from_its_folder_or_its_report(tmp_path: Path, document: Document) -> None:
    file = written(tmp_path / "run", document)
    for path in (file, tmp_path / "run"):
        found = figures_of(path)
        assert found.accuracy == (91.73, 90.1)
        assert found.profile.size_bytes == 617_720
        assert found.latency_ms == pytest.approx(0.8, rel=0.03)


def test_a_document_of_profile_is_read(tmp_path: Path, document: Document) -> None:
    both = {"profile": document["profiles"]["compressed"], "comparison": document["comparison"]}
    assert figures_of(written(tmp_path, both, "p.json")).comparison is not None
    alone = figures_of(written(tmp_path, document["profiles"]["dense"], "d.json"))
    assert alone.comparison is None
    assert alone.latency_ms == pytest.approx(1.0, rel=0.03)


@pytest.mark.parametrize(
    ("content", "message"),
    [({}, "neither a report nor a profile|was expected"), ({"kind": "edgecompress.plan"}, "this one says")],
)
def test_any_other_document_is_refused_by_name(tmp_path: Path, content: Document, message: str) -> None:
    file = written(tmp_path, content, "other.json")
    with pytest.raises(FileError, match=rf"other\.json: .*({message})"):
        figures_of(file)
    with pytest.raises(FileError, match="no such file"):
        figures_of(tmp_path / "none.json")


def test_a_run_that_measured_nothing_is_refused(tmp_path: Path, document: Document) -> None:
    with pytest.raises(FileError, match="nothing was measured in this run"):
        figures_of(written(tmp_path, reports.bare(document)))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("device", "name"), "ssh:pi@board"),
        (("device", "processor"), "Cortex-A76"),
        (("device", "provenance"), "emulated"),
        (("runtime",), {**reports.RUNTIME, "version": "1.30.0"}),
        (("threads",), 4),
        (("batch",), 8),
    ],
)
def test_figures_taken_otherwise_do_not_compare(
    tmp_path: Path, document: Document, where: tuple[str, ...], value: object
) -> None:
    first = figures_of(written(tmp_path / "a", document))
    profile = document["profiles"]["compressed"]
    inner = profile[where[0]] if len(where) == 2 else profile
    inner[where[-1]] = value
    second = figures_of(written(tmp_path / "b", document))
    with pytest.raises(FileError, match=rf"do not compare: {where[-1] if where[-1] != 'name' else 'device'} is"):
        refuse_different(first, second)
    assert len(differences(first, second)) == 1
    refuse_different(first, first)


def test_side_by_side_shows_what_both_or_one_has(tmp_path: Path, document: Document) -> None:
    first = figures_of(written(tmp_path / "a", document))
    second = figures_of(written(tmp_path / "b", reports.emulated(document)))
    found = side_by_side(first, second)
    assert found["size_bytes"] == (617_720, 617_720)
    assert found["wall_p50_ms"][1] is None
    assert found["instructions"] == (None, 20_460_000)
    assert found["speedup_over_dense"][0] == 1.25


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        ({"max_latency_ms": 0.85}, True),
        ({"max_latency_ms": 0.5}, False),
        ({"max_size_mb": 0.62}, True),
        ({"max_size_mb": 0.6}, False),
        ({"max_acc_drop": 1.63}, True),
        ({"max_acc_drop": 1.5}, False),
        ({"min_speedup": 1.2}, True),
        ({"min_speedup": 1.24}, False),
        ({"min_speedup": 5}, False),
        ({"min_instruction_ratio": 1.1}, False),
    ],
)
def test_limits_are_kept_or_missed(tmp_path: Path, document: Document, limits: dict[str, float], met: bool) -> None:
    (row,) = checks(figures_of(written(tmp_path, document)), limits)
    assert row.met is met


def test_a_limit_on_accuracy_says_the_interval(tmp_path: Path, document: Document) -> None:
    (row,) = checks(figures_of(written(tmp_path, document)), {"max_acc_drop": 1.5})
    assert row.found == "91.73 % -> 90.10 % (-1.63 points, 95 % interval -2.12 to -1.14)"
    assert row.missed == "by 0.13 points"
    del document["accuracy_difference"]
    (row,) = checks(figures_of(written(tmp_path, document)), {"max_acc_drop": 2})
    assert row.met
    assert row.found.endswith("(-1.63 points; no interval: not paired item by item)")


def scored(value: float, wrong: range) -> Document:
    """A score as it can be paired: right on all of 1,000 items but some."""
    bits = np.packbits(~np.isin(np.arange(1000), list(wrong))).tobytes()
    return {"compressed": SplitScore(value, 1000, "of these", bits).to_json()}


def test_two_runs_are_compared_on_the_same_items(tmp_path: Path, document: Document) -> None:
    """Ten images lost are a difference; twelve lost and two won, which accuracies alone cannot tell apart, are too."""
    document["data"]["test"]["items"] = 1000
    document |= {"accuracy": {"dense": 99.0, "artifact": 99.0}, "scored": scored(99.0, range(10))}
    first = figures_of(written(tmp_path / "a", document))
    document |= {"accuracy": {"dense": 99.0, "artifact": 98.0}, "scored": scored(98.0, range(2, 22))}
    second = figures_of(written(tmp_path / "b", document))
    found = accuracy_difference(first, second)
    assert found is not None
    assert found.flips == (12, 2)
    assert changes(first, second)["accuracy"] == "-1.00 points, 95 % interval -1.78 to -0.22"
    document |= {"accuracy": {"dense": 99.0, "artifact": 98.8}, "scored": scored(98.8, range(12))}
    third = figures_of(written(tmp_path / "c", document))
    assert changes(first, third)["accuracy"].startswith("no measurable difference: -0.20 points")
    document["scored"] = None
    fourth = figures_of(written(tmp_path / "d", document))
    assert changes(first, fourth)["accuracy"].endswith("or wider, not paired item by item")
    assert set(changes(first, fourth)) == set(side_by_side(first, fourth))


def test_times_of_two_runs_are_compared_only_with_an_interval(tmp_path: Path, document: Document) -> None:
    runs = {
        name: reports.comparison(wall, wall, blocks=40, size=40).to_json()
        for name, wall in (("a", 1.0), ("b", 1.0), ("c", 1.5))
    }
    first, same, other = (
        figures_of(written(tmp_path / name, {**document, "comparison": pair})) for name, pair in runs.items()
    )
    assert {changes(first, same)[f"wall_{mark}_ms"] for mark in ("p50", "p90", "p99")} == {"no measurable difference"}
    assert changes(first, other)["wall_p99_ms"].startswith("−3")
    assert changes(first, other)["load_ms"] == "no measurable difference"
    ratio = time_ratios(first, other)["wall_p99_ms"]
    assert ratio is not None
    assert ratio.high < 0.7
    few = {**document, "comparison": reports.comparison(blocks=10, size=20).to_json()}
    short, shorter = figures_of(written(tmp_path / "d", few)), figures_of(written(tmp_path / "e", document))
    assert changes(short, short)["wall_p99_ms"] == "not compared: too few runs"
    assert "wall_p99_ms" not in side_by_side(shorter, shorter)
    assert changes(first, same)["speedup_over_dense"] == "no measurable difference"


def test_it_is_said_by_how_much_a_limit_is_missed(tmp_path: Path, document: Document) -> None:
    figures = figures_of(written(tmp_path, document))
    rows = checks(figures, {"min_speedup": 5, "max_size_mb": 0.5, "max_acc_drop": 1.0})
    table = check_table(figures, rows)
    assert "| speed-up | at least 5x | 1.25x (95 % interval 1.23 to 1.27) | **missed** by 3.75x |" in table
    assert "| file size | at most 500.0 kB | 617.7 kB | **missed** by 117.7 kB (23.5 %) |" in table
    assert "**missed** by 0.63 points" in table
    assert "measured on local (Example CPU), 1 thread, ONNX Runtime 1.31.1" in table
    (close,) = checks(figures, {"min_speedup": 1.24})
    assert close.missed == "the interval reaches 0.01x below"


def test_what_was_not_measured_passes_no_gate(tmp_path: Path, document: Document) -> None:
    bare = written(tmp_path, document["profiles"]["dense"], "d.json")
    rows = checks(figures_of(bare), {"min_speedup": 1.0, "max_acc_drop": 100})
    assert [row.missed for row in rows] == ["not measured"] * 2
    emulated = figures_of(written(tmp_path, reports.emulated(document)))
    rows = checks(emulated, {"max_latency_ms": 1e9, "min_speedup": 1.0, "min_instruction_ratio": 1.9})
    assert [row.met for row in rows] == [False, False, True]
    assert "instructions are no time" in rows[1].found
    document["comparison"]["device"]["provenance"] = "emulated"
    (row,) = checks(figures_of(written(tmp_path, document)), {"min_speedup": 1.0})
    assert not row.met


def test_every_limit_is_an_option_of_the_command() -> None:
    from edgecompress.cli.measuring import check

    assert {parameter.name for parameter in check.params} >= set(LIMITS)


def test_plans_tried_in_one_folder_are_remembered(tmp_path: Path, document: Document) -> None:
    document["arguments"] = {"select": "budget", "keep": 0.5, "methods": ["svd", "tucker2"], "epochs": 2}
    (first,) = tried(tmp_path, "model", reports.report(document))
    assert first.chosen
    assert first.name == "select budget, keep 0.5, methods svd + tucker2, epochs 2"
    assert (first.accuracy, first.size_bytes) == (90.1, 617_720)
    assert first.wall_ms == pytest.approx(0.8, rel=0.03)
    assert len(tried(tmp_path, "model", reports.report(document))) == 1
    document["arguments"]["keep"] = 0.25
    again = tried(tmp_path, "model", reports.report(document))
    assert [plan.chosen for plan in again] == [False, True]
    assert len(tried(tmp_path, "another model", reports.report(document))) == 1
    (tmp_path / "tried.json").write_text("damaged")
    assert len(tried(tmp_path, "model", reports.report(reports.emulated(document)))) == 1
