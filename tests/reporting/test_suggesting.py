"""The lowest budget that is expected to hold the outputs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgecompress.plans import Outlook
from edgecompress.reporting.scores import Nearness
from edgecompress.reporting.suggesting import suggestion
from edgecompress.split_scores import of_flips
from tests import reports

OUTLOOK: Outlook = ((0.5, 0.4), (0.6, 0.2), (0.7, 0.1), (0.9, 0.01))
LABELLED = reports.report(reports.document())
BARE = reports.report(reports.bare(reports.document()))


@pytest.mark.parametrize(
    ("agreement", "keep"),
    [(0.93, "0.6"), (0.91, "0.7"), (0.75, "0.9")],
)
def test_what_was_measured_is_scaled_by_predicted_losses(agreement: float, keep: str) -> None:
    words = suggestion(replace(BARE, outputs=Nearness(512, "fresh", 9.0, agreement)), OUTLOOK)
    assert f"({100 * agreement:.1f} % of answers the same, wanted 95 %)" in words
    assert f"the lowest that is expected to is --keep {keep}, by the plan's predicted losses" in words


def test_without_classes_it_is_the_sqnr() -> None:
    words = suggestion(replace(BARE, outputs=Nearness(512, "fresh", 14.0)), OUTLOOK)
    assert "(SQNR 14.0 dB, wanted 20 dB)" in words
    assert "--keep 0.7," in words


def test_with_labels_it_is_a_score_that_is_surely_worse() -> None:
    assert "(-1.63 points of accuracy, wanted at most 1 lost); the lowest" in suggestion(LABELLED, OUTLOOK)
    assert suggestion(replace(LABELLED, difference=of_flips(16, 8, 600)), OUTLOOK) == ""


@pytest.mark.parametrize("near", [None, Nearness(512, "fresh", 30.0, 0.97), Nearness(512, "fresh", 30.0)])
def test_outputs_that_hold_need_no_suggestion(near: Nearness | None) -> None:
    assert suggestion(replace(BARE, outputs=near), OUTLOOK) == ""


def test_nothing_is_made_up() -> None:
    lost = replace(BARE, outputs=Nearness(512, "fresh", 0.1, 0.02))
    assert suggestion(lost, ()) == ""
    assert "no --keep up to 0.9 is expected to" in suggestion(lost, OUTLOOK)
