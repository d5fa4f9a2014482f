"""The first screen: the answer follows from the figures, four tiles say how sure they are, warnings lead somewhere."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from edgecompress.reporting.document import Report
from edgecompress.reporting.first_screen import first_screen, quoted
from edgecompress.reporting.recommending import recommendation
from edgecompress.reporting.scores import Nearness
from edgecompress.split_scores import of_flips
from tests import reports
from tests.reports import BOARD, comparison


def of(more: Any = None, *, flips: tuple[int, int] = (5, 4), **changes: Any) -> Report:
    """A report that measured ``more``, whose score changed by so many flips of 10,000."""
    document = reports.document()
    document["accuracy_difference"] = of_flips(*flips, 10_000).to_json()
    for layer in document["layers"]:
        layer["slower"] = False
    made = reports.report(document)
    return replace(made, comparison=made.comparison if more is None else more, **changes)


def test_a_gain_on_a_board_ships() -> None:
    answer = recommendation(of(comparison(device=BOARD)))
    assert answer.answer == "ship"
    assert "1.25x as fast (95 % interval" in answer.reason
    assert answer.command == ""


def test_a_gain_on_this_machine_is_to_be_measured_on_the_device() -> None:
    answer = recommendation(of())
    assert answer.answer == "measure on your device first"
    assert "which says little of a phone or a board" in answer.reason
    assert answer.command == "edgecompress profile model.onnx --baseline dense.onnx --device ssh:user@board"


def test_times_that_wavered_are_measured_again_where_they_were() -> None:
    answer = recommendation(of(comparison(device=BOARD, more={"unstable": ("spread: wide",)})))
    assert answer.answer == "measure on your device first"
    assert answer.command.endswith("--device ssh:pi@board")


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (lambda: of(flips=(400, 100)), "points of accuracy, wanted at most 1 lost"),
        (lambda: of(comparison(wall=0.8, cpu=0.8, device=BOARD)), "slower"),
        (lambda: of(outputs=Nearness(512, "fresh", 1.0, 0.2)), "no longer those of the dense model"),
    ],
)
def test_what_speaks_against_it_comes_first(report: Any, reason: str) -> None:
    answer = recommendation(report())
    assert answer.answer == "do not ship"
    assert reason in answer.reason


def test_nothing_measured_and_instructions_are_open() -> None:
    for made in (reports.bare(reports.document()), reports.emulated(reports.document())):
        assert recommendation(reports.report(made)).answer in ("measure on your device first", "do not ship")


def test_four_tiles_with_their_intervals() -> None:
    size, latency, accuracy, parity = first_screen(of()).tiles
    assert (size.name, size.before, size.changed) == ("Size", "1.087 MB", "−43.2 %")
    assert latency.changed == "1.25x faster"
    assert "95 % interval 1.23 to 1.27" in latency.note
    assert accuracy.changed == "no measurable difference"
    assert "95 % interval" in accuracy.note
    assert "10,000 items" in accuracy.note
    assert (parity.name, parity.value) == ("Parity", "3.8e-06")


def test_warnings_are_links_to_sections_that_are_there() -> None:
    html = reports.html(reports.resnet20(minutes=1))
    targets = set(re.findall(r'href="#([\w-]+)"', html))
    assert targets <= set(re.findall(r'<section id="([\w-]+)"', html))


def test_advice_names_the_option() -> None:
    report = reports.report(reports.document())
    slower = first_screen(report).advice[0]
    assert slower.command.startswith("--exclude 'block<script>")
    assert [quoted(name) for name in ("conv1", "a.0.b", "it's")] == ["conv1", "a.0.b", "'it'\\''s'"]
    assert first_screen(of(suggestion="a larger budget")).advice[0].text == "A larger budget"


def test_a_smaller_model_that_is_no_faster_gets_the_limit_that_makes_it_so() -> None:
    cost = of().cost
    for macs, advised in ((cost.dense.macs, True), (cost.dense.macs // 2, False)):
        report = of(cost=replace(cost, compressed=replace(cost.compressed, macs=macs)))
        found = [advice.command for advice in first_screen(report).advice if "not faster" in advice.text]
        assert found == (["--max-macs 2.84e+07"] if advised else [])


def test_command_and_suggestion_are_kept() -> None:
    made = of(command="edgecompress run x", suggestion="more")
    again = Report.from_json(made.to_json())
    assert (again.command, again.suggestion) == ("edgecompress run x", "more")
