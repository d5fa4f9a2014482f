"""The geometry of the report's charts: everything lies within the drawing, and stands where its value belongs."""

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgecompress.profiling.latencies import Latency, Sustained
from edgecompress.reporting import charts
from edgecompress.reporting.axes import Axis
from edgecompress.reporting.bars import layer_panels, mix_panel
from edgecompress.reporting.entries import LayerEntry, TriedPlan
from edgecompress.reporting.layer_tables import OUTSIDE
from edgecompress.reporting.pairs import Pair
from edgecompress.reporting.scores import TaskMetric
from edgecompress.reporting.tables import PlanRow
from edgecompress.reporting.wording import drift_text
from tests import reports

METRIC = TaskMetric()


def layer(*args, **values):
    return LayerEntry.from_json(reports.layer(*args, **values))


VALUES = st.lists(st.floats(1e-6, 1e12), min_size=1, max_size=5)


@given(VALUES)
@example([1e12, 999_999_999_999.9999])
def test_every_value_has_a_place_on_its_axis_and_the_axis_has_round_marks(values):
    axis = Axis.around(values)
    assert all(0 <= axis.place(value) <= 100 for value in values)
    assert axis.low >= 0
    marks = axis.marks()
    assert 2 <= len(marks) <= 8
    assert all(0 <= place <= 100 for place, _ in marks)


def test_an_axis_keeps_order_and_proportion():
    axis = Axis(10.0, 20.0)
    assert [axis.place(value) for value in (10, 12.5, 20, 99)] == [0, 25, 100, 100]
    assert axis.marks() == [(0, "10"), (20, "12"), (40, "14"), (60, "16"), (80, "18"), (100, "20")]
    assert axis.marks_down(200)[0] == (200, "10")


def test_bars_are_in_proportion_to_the_largest_value_of_their_quantity():
    layers = [
        layer("a", method="svd", ranks=[2], error=0.1, macs=4_000, kept=1_000, times=(0.2, 0.1)),
        layer("b", reason="tied", macs=2_000, kept=2_000, times=(0.1, None)),
    ]
    rest = Pair(0.4, None)
    panels = {panel.key: panel for panel in layer_panels(layers, {OUTSIDE: rest})}
    assert list(panels) == ["macs", "wall_ms", "bytes", "error"]
    assert [tuple(bar.widths) for bar in panels["macs"].bars] == [(100, 25), (50, 50)]
    assert [tuple(bar.widths) for bar in panels["wall_ms"].bars] == [(50, 25), (25, None), (100, None)]
    assert panels["wall_ms"].bars[-1].name == "outside any layer"
    assert [tuple(bar.widths) for bar in panels["error"].bars] == [(None, 100), (None, None)]
    assert panels["macs"].full == "4.000 k"


def test_a_quantity_that_is_known_of_no_layer_gets_no_panel():
    layers = [layer("a", reason="tied")]
    assert [panel.key for panel in layer_panels(layers, {})] == ["macs", "bytes"]
    assert layer_panels([], {}) == []


def test_a_slower_layer_says_so_only_where_time_is_shown():
    layers = [layer("a", method="svd", ranks=[2], error=0.1, times=(0.1, 0.2), slower=True)]
    panels = {panel.key: panel.bars[0] for panel in layer_panels(layers, {})}
    assert panels["wall_ms"].note == "▲ slower, +100.0 %"
    unchanged = [layer("a", reason="tied", times=(0.1, 0.2), slower=None)]
    assert {panel.key: panel.bars[0] for panel in layer_panels(unchanged, {})}["wall_ms"].note == ""
    assert "slower" not in panels["macs"].note


def test_classes_without_instructions_are_not_drawn():
    pair = reports.instruction_comparison()
    panel = mix_panel(pair)
    assert [bar.name for bar in panel.bars] == ["vector fp", "load store", "branch", "other"]
    assert panel.bars[0].widths.dense == 100


def test_a_few_slow_runs_leave_the_others_their_room():
    times = [1 + i / 1000 for i in range(190)] + [50.0] * 10
    latency = Latency((tuple(times),), (), (0,))
    both = charts.histograms(replace(reports.comparison(), baseline_latency=latency, candidate_latency=latency))
    assert both.high == pytest.approx(1 + 3 * 0.179, abs=0.01)
    for panel in both.panels:
        assert panel.beyond == 10
        assert set(panel.marks) == {"p50", "p90"}


def size_of(plan):
    return plan.size_bytes


def plans(*points):
    marks = ("dense", "chosen", *["other"] * len(points))
    return [
        PlanRow(i, mark, TriedPlan("", f"p{i}", score, None, size, None, ""))
        for i, ((score, size), mark) in enumerate(zip(points, marks, strict=False))
    ]


def test_a_plan_is_drawn_by_its_size_and_score():
    found = charts.scatter(plans((92.0, 2e6), (90.0, 1e6), (88.0, 5e5)), size_of, "file size, MB", 1e6, METRIC)
    by_mark = {point.mark: point for point in found.points}
    assert by_mark["other"].x < by_mark["chosen"].x < by_mark["dense"].x
    assert by_mark["other"].y > by_mark["chosen"].y > by_mark["dense"].y
    assert (by_mark["other"].label, by_mark["chosen"].label) == ("2", "chosen")
    assert by_mark["chosen"].words == "p1: 90.00 %, file size, MB 1"
    assert found.points[-1].mark == "chosen"


def test_what_is_not_known_of_a_plan_is_not_drawn():
    assert charts.scatter(plans((92.0, 2e6), (None, 1e6)), size_of, "size", 1, METRIC) is None
    found = charts.scatter(plans((92.0, 2e6), (90.0, 1e6), (None, 5e5)), size_of, "size", 1, METRIC)
    assert len(found.points) == 2


@pytest.mark.parametrize(("sizes", "expected"), [([2e6, 5e5], (1e6, "MB")), ([900], (1, "B")), ([], (1, "B"))])
def test_sizes_share_the_unit_of_the_largest(sizes, expected):
    assert charts.bytes_scale(sizes) == expected


def test_windows_without_a_clock_break_the_line():
    made = reports.sustained(1.0, 1.2, windows=6)
    run = Sustained(made.start_s, made.wall_ms, (2400, None, 2300, 2200, None, None), (None,) * 6)
    wall, clock = charts.windows({"dense": run})
    assert len(wall.lines[0].paths) == 1
    first, second = (path.split(" ") for path in clock.lines[0].paths)
    assert first[0] == first[1]
    assert len(second) == 2


def test_names_of_lines_stand_apart():
    runs = {role: reports.sustained(typical, 1.0) for role, typical in (("dense", 1.0), ("compressed", 1.001))}
    upper, lower = sorted(line.label_y for line in charts.windows(runs)[0].lines)
    assert lower - upper > 14


@pytest.mark.parametrize(
    ("slowdown", "words"), [(1.25, "slower at the end"), (0.8, "faster at the end"), (1, "steady")]
)
def test_drift_in_words(slowdown, words):
    assert words in drift_text(reports.sustained(1.0, slowdown))
