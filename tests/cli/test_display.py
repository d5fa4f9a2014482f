"""What a terminal of 80 columns shows: numbers, units, words and commands stay whole."""

from __future__ import annotations

import io
import re

import pytest

from edgecompress.cli.display import print_json, print_table, say

SENTENCE = "against dense.onnx: measured 2.20x faster (95 % interval 2.13 to 2.37) on AMD EPYC, 16.8 % of 1,724,320 B"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is written to a terminal of 80 columns."""
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: True)
    monkeypatch.setattr("sys.__stdout__", written)
    monkeypatch.setenv("COLUMNS", "80")
    return written


@pytest.mark.parametrize("start", range(0, 40, 3))
def test_sentences_break_between_words_and_figures_keep_their_unit(start: int, terminal: io.StringIO) -> None:
    say("x" * start + " " + SENTENCE)
    lines = terminal.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).split() == ("x" * start + " " + SENTENCE).split()
    assert not [line for line in lines if line.startswith(("%", "B"))]


def test_what_is_copied_stays_in_one_line(terminal: io.StringIO) -> None:
    lines = [
        f"next:   cd out/mine && edgecompress profile {'a' * 60}.onnx --baseline dense.onnx",
        f"model:  {'folder/' * 15}model.onnx",
        f"litert: litert-torch, ai-edge-litert not installed; pip install '{'edgecompress' * 4}'",
    ]
    for line in lines:
        say(line)
    print_json({"a": "long words " * 20})
    assert terminal.getvalue().splitlines()[:3] == lines
    assert len(terminal.getvalue().splitlines()) == 6


def test_in_a_pipe_every_line_is_whole(terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    say(SENTENCE)
    assert terminal.getvalue() == SENTENCE + "\n"


def test_names_and_numbers_of_a_plan_fit(terminal: io.StringIO) -> None:
    head = ("layer", "kind", "method", "ranks", "error", "MACs dense", "MACs planned")
    row = ("conv2", "Conv2d 20->50 5x5", "hierarchical_tucker2", "24x16x8", 0.0003887, 1_600_000, 284_160)
    print_table("Plan", head, [row])
    text = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert max(map(len, text.splitlines())) <= 80
    assert all(whole in text for whole in ("hierarchical_tucker2", "24x16x8", "0.0003887", "1,600,000", "284,160"))


def test_a_table_of_names_alone_is_a_list(terminal: io.StringIO) -> None:
    print_table("selectors", ("selector", "what"), [("budget", "words " * 20), ("energy", "other words " * 12)])
    assert "selector " not in terminal.getvalue()
    assert terminal.getvalue().startswith("budget: words words")
