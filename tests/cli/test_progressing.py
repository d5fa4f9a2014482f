"""Progress in a log: how far, how long it took, how long it will take."""

from __future__ import annotations

import io
import sys
import threading
import time

import pytest

from edgecompress.cli.display import showing_progress
from edgecompress.cli.progressing import Lines
from edgecompress.progress import duration
from edgecompress.targets.quieting import quiet


def test_a_line_every_few_seconds_says_how_far_and_how_long() -> None:
    written: list[str] = []
    now = [0.0]
    lines = Lines(written.append, 5, lambda: now[0])
    lines.look()
    lines("plan", 0, 12, "")
    for second, done in ((4, 1), (6, 3), (7, 3), (12, 12)):
        now[0] = second
        lines("plan", done, 12, f"conv{done}")
        lines.look()
    now[0] = 20
    lines("export", 0, 1, "")
    now[0] = 95
    lines.look()
    assert written == [
        "plan (at 0 s)",
        "plan: 3/12, 6 s elapsed, about 18 s left (conv3)",
        "plan: 12/12, 12 s elapsed (conv12)",
        "export (at 20 s)",
        "export: 1 min 15 s elapsed",
    ]


def test_what_was_done_before_is_no_measure_of_speed() -> None:
    written: list[str] = []
    now = [0.0]
    lines = Lines(written.append, 5, lambda: now[0])
    lines("fine-tune", 80, 100, "")
    now[0] = 10
    lines("fine-tune", 90, 100, "")
    lines.look()
    assert written[-1] == "fine-tune: 90/100, 10 s elapsed, about 10 s left"


def test_work_that_reports_nothing_shows_life_and_ends_with_its_command() -> None:
    seen, threads = threading.Event(), threading.active_count()
    with Lines(lambda line: seen.set() if "elapsed" in line else None, every_s=0.01) as lines:
        lines("refit", 0, 3, "")
        assert seen.wait(10)
    assert threading.active_count() == threads


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "stream"), [("", io.StringIO), ("dumb", Terminal), ("xterm", Terminal)])
def test_progress_is_seen_while_an_exporter_is_kept_quiet(
    monkeypatch: pytest.MonkeyPatch, term: str, stream: type[io.StringIO]
) -> None:
    """Tracing a net takes minutes, in which its own words go nowhere; progress does not go with them."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr("edgecompress.cli.display.EVERY_S", 0.02)
    written = sys.stderr
    with showing_progress() as progress:
        progress("trace", 0, 3, "")
        with quiet():
            sys.stderr.write("the exporter's own words")
            progress("trace", 2, 3, "conv2")
            deadline = time.monotonic() + 10
            while "2/3" not in written.getvalue() and time.monotonic() < deadline:
                time.sleep(0.02)
            assert "2/3" in written.getvalue()
    assert "own words" not in written.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (3700, "1 h 1 min")])
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text
