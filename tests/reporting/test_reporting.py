"""The report: complete, honest, escaped, and with nothing to fetch; as a page and as Markdown."""

import copy
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt

from edgecompress.cli.running import _print_files
from edgecompress.errors import FileError
from edgecompress.files import dump_json
from edgecompress.profiling import latencies
from edgecompress.profiling.latencies import Latency
from edgecompress.profiling.ratios import RESOLUTION, Ratio
from edgecompress.reporting import (
    HTML_NAME,
    JSON_NAME,
    MARKDOWN_NAME,
    read_report,
    render_html,
    render_markdown,
    write_report,
)
from edgecompress.reporting.markdown import escape
from edgecompress.reporting.numbers import error_text
from edgecompress.reporting.tables import before_and_after
from edgecompress.reporting.wording import latency_clause, summary_sentence
from edgecompress.split_scores import Difference, of_flips
from tests import reports
from tests.reports import BOARD, DEVICE, HOSTILE, REASON, comparison, layer

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
VERIFIED = "verified on ARM"


class Page(HTMLParser):
    """Checks that tags are balanced and gathers what tests ask for."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.charts, self.headings = [], [], "", [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if dict(attrs).get("role") == "img":
            self.charts.append(dict(attrs)["aria-label"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += " " + data if "style" not in self.open else ""


@pytest.fixture
def document():
    return reports.document()


def sentence(document):
    return summary_sentence(reports.report(document))


def words(html):
    """A page's text in one line."""
    return " ".join(Page(html).text.split())


def test_page_is_balanced_and_fetches_nothing(document):
    html = reports.html(document)
    page = Page(html)
    assert not re.search(r"src=|href=(?!\"#)|action=|@import|url\(", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html


def test_headings_are_in_order(document):
    headings = Page(reports.html(document)).headings
    assert headings[0] == 1
    assert set(headings[1:]) == {2}


def test_headings_below_are_in_order_too():
    headings = Page(reports.html(reports.resnet20(minutes=1))).headings
    assert all(after <= before + 1 for before, after in pairwise(headings))


def test_every_chart_has_a_label(document):
    charts = Page(reports.html(document)).charts
    assert [label.split(" of ")[0].split(" on ")[0] for label in charts] == [
        "Time in the runtime", "MACs", "Time in the runtime", "Bytes", "Relative squared error", "Histograms",
        "Accuracy against file size, MB", "Accuracy against wall time p50, ms", "Validation score after each",
    ]  # fmt: skip
    assert all("the same numbers" in label for label in charts)


def test_hostile_strings_are_escaped_everywhere(document):
    hostile = "<script>alert(1)</script>"
    document["model"] = document["arguments"]["keep"] = document["versions"]["torch"] = hostile
    document["data"]["test"]["origin"] = document["artifacts"][0]["path"] = hostile
    html = reports.html(document)
    assert "<script" not in html
    assert "<another>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


def test_every_layer_is_named_with_its_method_or_its_reason(document):
    text = Page(reports.html(document)).text
    for shown in ("stem.conv", HOSTILE, "head.linear", "tucker2 (8x16)", "svd (24)", "left dense", REASON, "0.123"):
        assert shown in text


@pytest.mark.parametrize(
    ("error", "text"), [(0.0, "0"), (0.1234, "0.123"), (0.00123, "0.00123"), (4.4854e-5, "4.49e-05")]
)
def test_small_errors_keep_their_digits(error, text):
    assert error_text(error) == text


def test_layers_without_a_closed_form_are_not_counted(document):
    document["layers"].append(layer("embedding", reason="no method for Embedding", macs=None, kept=None))
    assert "not counted" in Page(reports.html(document)).text


def test_before_and_after(document):
    html = reports.html(document)
    for shown in ("40.55 M", "20.27 M", "81.10 M", "269.7 k", "1.087 MB", "617.7 kB", "−44.3 %", "−1.63 points"):
        assert shown in html
    assert 'title="1,087,212 bytes"' in html
    assert 'title="40,551,040"' in html
    assert "2 × MACs" in html


def test_artifacts_and_options_are_listed(document):
    text = Page(reports.html(document)).text
    for facts in document["artifacts"]:
        assert facts["sha256"] in text
    for shown in ("svd, tucker2", "not given", "Example CPU", "ONNX Runtime 1.31.1", "CIFAR-10 test, whole"):
        assert shown in text


def test_what_is_to_know_of_the_files_is_shown_wherever_they_are(document, monkeypatch):
    """That a file takes one batch size, or kept a part in float32, was in its JSON alone."""
    shared, own = "takes batches of 1 only: the model's code fixes the batch size", "head stayed in float32"
    for facts, notices in zip(document["artifacts"], ([shared], [shared, own]), strict=True):
        facts["notices"] = notices
    report = reports.report(document)
    page, text = Page(render_html(report)).text, render_markdown(report)
    monkeypatch.setattr(sys, "__stdout__", printed := io.StringIO())
    _print_files(report)
    lines = printed.getvalue().splitlines()
    assert f"dense.onnx, model.onnx: {shared}" in lines
    assert f"model.onnx: {own}" in lines
    for words in ("dense.onnx, model.onnx", shared, own):
        assert words in page
        assert escape(words) in text


def test_runs_beyond_the_axis_are_counted(document):
    far = [[1.0] * 999, [1.0] * 999, [1.0, 500.0]]
    document["comparison"]["baseline_latency"] |= {"wall_ms": far, "cpu_ms": [], "loads": [0, 1, 2]}
    text = Page(reports.html(document)).text
    assert "1 of 2,000 dense runs (largest 500.0 ms)" in text
    assert "0 of 20 compressed runs" in text


def test_sentence_of_a_faster_model(document):
    assert sentence(document) == (
        "example: 50.0 % fewer MACs, 44.3 % fewer parameters, accuracy 91.73 % -> 90.10 % "
        "(-1.63 points, 95 % interval -2.12 to -1.14), "
        "measured 1.25x faster (95 % interval 1.23 to 1.27) on Example CPU, 1 thread, ONNX Runtime 1.31.1."
    )


def near(sqnr_db, agreement, seen="fresh"):
    return {"inputs": 512, "seen": seen, "sqnr_db": sqnr_db, "agreement": agreement}


def test_a_faster_model_without_labels_says_what_it_cost(document):
    document.update(accuracy=None, data=None, accuracy_difference=None, outputs=near(12.34, 0.875))
    cost = "outputs SQNR 12.3 dB, 87.5 % of answers the same on 512 test inputs that nothing was fitted to"
    assert f"{cost}; accuracy not measured, measured 1.25x faster" in sentence(document)
    page, text = reports.html(document), reports.markdown(document)
    assert "Verdict on latency: faster; outputs SQNR 12.3 dB" in page
    assert "Verdict on latency: **faster**; outputs SQNR 12.3 dB" in text
    document["outputs"] = near(30.0, None, "made")
    assert "outputs SQNR 30.0 dB on 512 inputs made of the example and noise" in sentence(document)
    del document["outputs"]
    assert "faster; what it cost was not measured" in reports.html(document)


def test_a_faster_model_with_labels_says_what_it_cost(document):
    assert "Verdict on latency: faster; accuracy -1.63 points, 95\xa0% interval" in reports.html(document)


def test_outputs_that_are_lost_come_first(document):
    document["outputs"] = near(0.12, 0.031)
    lost = "the outputs are no longer those of the dense model (SQNR 0.1 dB, 3.1 % of answers the same)"
    assert sentence(document).startswith(f"example: {lost}, 50.0 % fewer MACs")
    assert f"▼ {lost.replace(chr(39), '&#39;')}" in reports.html(document)
    assert "**Beware: the outputs are no longer" in reports.markdown(document)


def test_sentence_of_a_slower_model(document):
    document["comparison"] = comparison(wall=0.8, cpu=0.8, spread=0.0).to_json()
    assert "measured 1.25x slower (95 % interval 1.25 to 1.25)" in sentence(document)
    text = Page(reports.html(document)).text
    assert "1.25× slower" in text
    assert "Verdict on latency: slower" in text


@pytest.mark.parametrize(("wall", "cpu"), [(1.01, 1.01), (1.2, 0.8), (1.2, 1.0)])
def test_sentence_without_a_claim(document, wall, cpu):
    document["comparison"] = comparison(wall=wall, cpu=cpu).to_json()
    told = sentence(document)
    assert "no measurable difference in latency" in told
    assert "faster" not in told
    assert "slower" not in told
    assert "Verdict on latency: no claim" in Page(reports.html(document)).text


def test_the_rule_of_the_verdict_is_stated(document):
    text = " ".join(Page(reports.html(document)).text.split())
    assert "take turns in interleaved blocks" in text
    assert f"by more than {100 * RESOLUTION:g} %" in text
    assert "bootstrap 95 % interval" in text


def test_interval_near_one_gets_a_third_decimal(document):
    document["comparison"] = comparison(wall=1.01, cpu=1.01, spread=0.006).to_json()
    assert "speed-up of wall time 1.010x (95 % interval 1.004 to 1.016), of CPU time" in sentence(document)


def test_sentence_of_another_device(document):
    device = document["comparison"]["device"] | {"name": "ssh:pi", "processor": "", "machine": "aarch64"}
    document["comparison"] |= {"device": device, "threads": 4, "batch": 8}
    expected = (
        "measured 1.25x faster (95 % interval 1.23 to 1.27) on ssh:pi (aarch64), 4 threads, batch 8, ONNX Runtime"
    )
    assert expected in sentence(document)


def test_growth_is_not_hidden(document):
    document["cost"]["compressed"] |= {"macs": 81_102_080, "params": 269_722}
    assert "100.0 % more MACs, as many parameters as before" in sentence(document)


@pytest.mark.parametrize("stage", ["decomposed", "finetuned"])
def test_last_known_accuracy_counts(document, stage):
    document["accuracy"] = {"dense": 91.0, stage: 80.0, "artifact": None}
    document["accuracy_difference"] = None
    expected = "accuracy 91.00 % -> 80.00 % (-11.00 points; no interval: not paired item by item)"
    assert expected in sentence(document)
    Page(reports.html(document))


@pytest.mark.parametrize("flips", [(2, 0), (0, 2), (12, 10), (0, 0)])
def test_a_few_images_are_no_headline(document, flips):
    """Two of 1,000 images, either way, with pairs and in a document of before there were pairs."""
    lost, won = flips
    document["accuracy"] = {"dense": 91.0, "artifact": 91.0 + (won - lost) / 10}
    document["data"]["test"]["items"] = 1_000
    for paired in (of_flips(lost, won, 1_000).to_json(), None):
        document["accuracy_difference"] = paired
        assert "no measurable difference in accuracy: 91.00 % -> " in sentence(document)
        for text in (words(reports.html(document)), reports.markdown(document)):
            assert "no measurable difference: " in text
        assert ("or wider, not paired" in sentence(document)) == (paired is None)


def test_a_loss_of_a_few_images_that_is_sure_is_told(document):
    document["accuracy"] = {"dense": 91.0, "artifact": 90.0}
    document["accuracy_difference"] = of_flips(105, 5, 10_000).to_json()
    assert "accuracy 91.00 % -> 90.00 % (-1.00 points, 95 % interval -1.21 to -0.79)" in sentence(document)


def test_a_score_of_the_users_own_has_its_interval(document):
    document["metric"] = {"name": "score", "unit": ""}
    document["accuracy"] = {"dense": 0.5, "artifact": 0.4993}
    document["accuracy_difference"] = Difference(-0.0007, 50, (-0.002, 0.0006), 0.0005).to_json()
    expected = "no measurable difference in score: 0.5 -> 0.4993 (-0.0007, 95 % interval -0.002 to +0.0006)"
    assert expected in sentence(document)
    document["accuracy_difference"] = Difference(-0.0007, 50, why_not="one score takes more than 5 s").to_json()
    assert "score 0.5 -> 0.4993 (-0.0007; no interval: one score takes more" in sentence(document)


def changes_in(document):
    """By the label of its row, in the first group that has it."""
    groups = reversed(before_and_after(reports.report(document)))
    return {row.label: row.change for _, rows in groups for row in rows}


def test_times_change_only_where_their_interval_says_so(document):
    document["comparison"] = comparison(1.25, 1.25, blocks=40, size=40).to_json()
    rows = changes_in(document)
    assert re.fullmatch(r"−(19|20)\.\d % \(−20\.\d to\s−(19|20)\.\d\)", rows["Wall time, p99"])
    assert rows["Wall time, min"] == ""
    same = comparison(1.0001, 1.0001, blocks=40, size=40).to_json()
    document["comparison"] = same
    rows = changes_in(document)
    assert {rows[f"Wall time, {mark}"] for mark in ("p50", "p90", "p99")} == {"no measurable difference"}
    document["comparison"] = comparison(blocks=10, size=20).to_json()
    assert changes_in(document)["Wall time, p99"] == "not compared: too few runs"
    document["comparison"] = comparison().to_json()
    assert "Wall time, p99" not in changes_in(document)


def test_a_few_starts_are_compared_only_where_they_lie_apart(document):
    rows = changes_in(document)
    assert rows["Load time"] == "no measurable difference"
    document["profiles"]["compressed"]["cold"]["load_ms"] = [3.0, 4.0, 5.0]
    rows = changes_in(document)
    assert rows["Load time"] == "−68.0 %"


def test_optional_parts_may_be_missing(document):
    document |= dict.fromkeys(("data", "accuracy", "calibration", "training"))
    text = Page(reports.html(document)).text
    for words in (
        "accuracy not measured",
        "Accuracy was not measured",
        "not fine-tuned",
        "not estimated anew",
        "The model came without data",
    ):
        assert words in text


def test_calibration_is_told_either_way(document):
    text = Page(reports.html(document)).text
    assert "on 1,024 training inputs" in text
    assert "estimated anew on some of them" in text
    document["calibration"]["recalibrated"] = False
    assert "left as they are" in Page(reports.html(document)).text


def test_nothing_was_measured(document):
    text = Page(reports.html(reports.bare(document))).text
    assert "latency not measured" in text
    assert "Latency was not measured" in text
    assert "No file was exported" in text
    assert "nothing to draw" in text
    assert "Latency was not measured" in reports.markdown(reports.bare(document))


@pytest.mark.parametrize("part", ["threads", "tried", "outside_layers"])
def test_parts_of_a_shorter_run_may_be_left_out(document, part):
    del document[part]
    Page(reports.html(document))
    reports.markdown(document)


def test_no_epoch_was_better(document):
    document["training"]["best_epoch"] = 0
    assert "No epoch was better" in Page(reports.html(document)).text


@pytest.mark.parametrize("epochs", [0, 1, 60])
def test_any_number_of_epochs(document, epochs):
    history = [{"epoch": i + 1, "loss": 1.0, "score": 80.0 + i % 3} for i in range(epochs)]
    document["training"] = {"epochs": epochs, "best_epoch": epochs, "history": history}
    Page(reports.html(document))


@pytest.mark.parametrize("typical", [0.0042, 3.3, 12_345.6])
def test_any_scale_of_latency(document, typical):
    document["comparison"] = comparison(before=typical).to_json()
    Page(reports.html(document))


def test_equal_times_do_not_break_the_axis(document):
    same = Latency(((1.0, 1.0), (1.0, 1.0)), ((1.0, 1.0), (1.0, 1.0)), (0, 1)).to_json()
    document["comparison"] |= {"baseline_latency": same, "candidate_latency": copy.deepcopy(same)}
    Page(reports.html(document))


def test_round_trip(document, tmp_path):
    report = reports.report(document)
    html, data, markdown = write_report(report, tmp_path / "run")
    assert (html.name, data.name, markdown.name) == (HTML_NAME, JSON_NAME, MARKDOWN_NAME)
    assert html.read_text(encoding="utf-8") == render_html(report)
    assert markdown.read_text(encoding="utf-8") == render_markdown(report)
    assert read_report(tmp_path / "run") == report
    assert data.read_text(encoding="utf-8") == dump_json(document) + "\n"


@pytest.mark.parametrize("made", [reports.document, reports.resnet20])
def test_a_report_is_the_same_document_again_with_its_keys_in_order(made):
    for document in (made(), reports.emulated(made())):
        assert dump_json(reports.report(document).to_json()) == dump_json(document)


def test_scores_of_weights_stored_as_codes(document):
    document["accuracy"] = {"dense": 91.0, "decomposed": 20.0, "factors": 90.5, "finetuned": 90.2, "artifact": 90.1}
    report = reports.report(document)
    assert (report.scores.finetuned, report.scores.stored, report.before_and_after) == (90.5, 90.2, (91.0, 90.1))
    assert dump_json(report.to_json()) == dump_json(document)
    assert "After fine-tuning 90.20 %" in words(reports.html(document))


def test_a_summary_is_the_report_without_single_runs_and_items(document):
    summary = reports.report(document).summary()
    assert set(document) == set(summary)
    assert "wall_ms" not in summary["comparison"]["candidate_latency"]
    assert summary["profiles"]["dense"]["latency"] == summary["profiles"]["dense"]["latency"] | {"runs": 20}
    assert len(json.dumps(summary)) < len(json.dumps(document))


@pytest.mark.parametrize("change", [{"version": 1}, {"kind": "edgecompress.plan"}])
def test_unknown_documents_are_refused(document, tmp_path, change):
    (tmp_path / JSON_NAME).write_text(json.dumps(document | change), encoding="utf-8")
    with pytest.raises(FileError, match=re.escape(str(tmp_path / JSON_NAME))):
        read_report(tmp_path)


def test_a_missing_report_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_report(tmp_path)


@pytest.mark.parametrize("part", ["cost", "layers", "comparison", "versions", "arguments"])
def test_an_incomplete_document_is_a_file_error(document, part):
    del document[part]
    with pytest.raises(FileError, match=r"^report: field missing or malformed: ."):
        reports.report(document)


@pytest.mark.parametrize(
    ("part", "value"), [("model", 3), ("accuracy", {"dense": "91"}), ("layers", [None]), ("tried", [{"name": "x"}]),
                      ("artifacts", [{**reports.artifact("dense", "dense.onnx", 3), "notices": [3]}])],
)  # fmt: skip
def test_a_malformed_field_is_a_file_error_in_one_line(document, part, value, tmp_path):
    (tmp_path / JSON_NAME).write_text(json.dumps({**document, part: value}), encoding="utf-8")
    with pytest.raises(FileError, match=r"report\.json: report: field missing or malformed: ") as refusal:
        read_report(tmp_path)
    assert len(str(refusal.value).splitlines()) == 1


def test_the_drift_under_load_is_computed_once(document, monkeypatch):
    calls = []
    monkeypatch.setattr(latencies, "ratio_of_medians", lambda *both: calls.append(both) or Ratio(1.0, 0.9, 1.1))
    load = {role: reports.sustained(1.0, 1.1) for role in ("baseline", "candidate")}
    pair = comparison(more={"sustained": load})
    report = replace(reports.report(document), comparison=pair)
    for _ in range(2):
        render_html(report), render_markdown(report), report.to_json(), report.summary()
    assert len(calls) == 2


@pytest.mark.slow
def test_a_large_run_stays_small(document):
    document["layers"] = [
        layer(f"denseblock4.denselayer{i}.conv2", method="tucker2", ranks=[128, 256], error=0.25, times=(0.25, 0.125))
        for i in range(300)
    ]
    load = {role: reports.sustained(1.0, 1.1, windows=1_800) for role in ("baseline", "candidate")}
    document["comparison"] = comparison(blocks=500, size=20, more={"sustained": load}).to_json()
    html = reports.html(document)
    Page(html)
    assert len(html.encode()) < 2_000_000


# -- what may be claimed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "wall", "claimed"),
    [(BOARD, 1.25, True), (BOARD, 0.8, False), (BOARD, 1.0, False), (DEVICE, 1.25, False)],
)
def test_only_a_gain_measured_on_arm_is_called_verified(document, device, wall, claimed):
    document["comparison"] = comparison(wall=wall, cpu=wall, device=device).to_json()
    for text in (reports.html(document), reports.markdown(document), sentence(document)):
        assert (VERIFIED in text) is claimed
    assert latency_clause(reports.report(document).comparison).endswith(", gain verified on ARM") is claimed


def test_a_claim_follows_from_the_times_and_not_from_what_a_document_says(document):
    document["comparison"] |= {"verified_on_arm": True, "verdict": "slower"}
    assert VERIFIED not in reports.html(document)
    assert "Verdict on latency: faster" in words(reports.html(document))


def test_instructions_are_told_as_a_ratio_and_never_as_time(document):
    document = reports.emulated(document)
    assert latency_clause(reports.report(document).comparison) == (
        "emulated: 1.93x fewer instructions (39.50 M -> 20.46 M) under cortex-a76, ONNX Runtime 1.31.1; "
        "instructions are not time"
    )
    text = words(reports.html(document))
    for shown in ("Verdict on latency: no claim (emulated)", "1.93× fewer instructions", "vector fp", "Emulated core"):
        assert shown in text
    for told in (text, reports.markdown(document)):
        assert "Instructions are not time" in told
        assert not re.search(r"\d ms\b|faster|Wall time, p50 [^n]", told.split("How to read")[0])


@pytest.mark.parametrize(
    ("after", "shown"), [(39_496_000, "as many instructions as before"), (78_992_000, "2.00x more instructions")]
)
def test_more_instructions_are_not_hidden(after, shown):
    assert shown in latency_clause(reports.instruction_comparison(after=after))


def test_times_of_an_emulator_carry_no_claim_and_say_why(document):
    fake = reports.CORE
    document["comparison"] = comparison(wall=2.0, cpu=2.0, device=fake).to_json()
    clause = latency_clause(reports.report(document).comparison)
    assert clause.startswith("no claim on latency: times on emulated:cortex-a76 (cortex-a76)")
    assert "an emulator's clock says nothing of a device's" in clause
    text = words(reports.html(document))
    assert "No claim: times on" in text
    assert "not the latency of any device" in text
    assert "Accuracy against wall time" not in text


def test_unstable_times_say_so_wherever_the_verdict_stands(document):
    reasons = ("throttled: the clock went from 2,400 to 1,800 MHz", "too few runs: 10 of at least 50")
    document["comparison"] = comparison(more={"unstable": reasons}).to_json()
    document["profiles"]["dense"]["unstable"] = ["spread: wide"]
    assert f"but the times were unstable ({'; '.join(reasons)})" in sentence(document)
    text = words(reports.html(document))
    for shown in (
        "Not all of these times can be trusted",
        *reasons,
        "dense model alone: spread: wide",
        "faster, unstable",
    ):
        assert shown in text
    assert "No sign of instability" not in text
    assert all(escape(reason) in reports.markdown(document) for reason in reasons)


def test_stable_times_say_so(document):
    assert "No sign of instability" in words(reports.html(document))


def test_a_runner_that_does_not_tell_cpu_time(document):
    document["comparison"] = comparison(cpu=None).to_json()
    assert "measured 1.25x faster" in sentence(document)
    text = words(reports.html(document))
    assert "dense, CPU" not in text
    assert "Speed-up, CPU time (95 % interval) 1×" not in text
    document["comparison"] = comparison(wall=1.0, cpu=None).to_json()
    assert ", of CPU time" not in sentence(document)


def test_what_a_runner_does_not_tell_is_not_made_up(document):
    for role in ("dense", "compressed"):
        document["profiles"][role] |= dict.fromkeys(("cold", "peak_rss_bytes", "runtime_rss_bytes"))
    assert "Load time not measured not measured" in words(reports.html(document))


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_layers_that_got_slower_are_named(document):
    assert f"1 layer got slower than before: {' '.join(HOSTILE.split())}." in words(reports.html(document))
    document["layers"][1]["ablation"] = {"speedup": 0.8, "ci95": [0.75, 0.85]}
    assert "the whole file is faster:" in words(reports.html(document))
    assert "1.25x (95 % interval 1.18 to 1.33)" in words(reports.html(document))
    document["layers"][1]["slower"] = False
    assert "No layer whose time could be compared got slower." in words(reports.html(document))


def test_times_with_the_profiler_in_them_call_no_layer_slower(document):
    """A report of before the two were told apart."""
    del document["file_times"]
    for text in (words(reports.html(document)), reports.markdown(document)):
        assert "got slower" not in text
        assert "▲ slower" not in text
        assert "too long for chains" in text


def test_times_of_layers_are_not_called_latency(document):
    for text in (words(reports.html(document)), reports.markdown(document)):
        assert "less what it adds to each operator" in text
        assert "add up to the latency when taking turns" in text
        assert "outside any layer" in text
        assert "outside all operators" in text
    cells = rendered(reports.markdown(document))[0]
    rows = [row for row in cells if row[0] in ("outside all operators", "Whole model")]
    assert [row[-2:] for row in rows] == [["0.5200", "0.3100"], ["1.000", "0.8000"]]
    assert "Times of layers are not known" in words(reports.html(reports.emulated(document)))


def test_layers_left_dense_are_grouped_by_reason(document):
    document["layers"] += [layer("other", reason=REASON), layer("odd")]
    text = words(reports.html(document))
    assert f"{REASON} head.linear, other 2" in text
    assert "no reason on record odd 1" in text


def test_quantities_are_chosen_without_a_script(document):
    html = reports.html(document)
    radios = re.findall(r'<input type="radio" name="quantity" class="show-(\w+)"( checked)?>', html)
    assert radios == [("macs", " checked"), ("wall_ms", ""), ("bytes", ""), ("error", "")]
    for name, _ in radios:
        assert f'<div class="panel {name}">' in html
        assert f".chooser:has(.show-{name}:checked) .{name}" in html


def test_every_number_of_threads_has_its_speed_up(document):
    text = words(reports.html(document))
    assert "1 faster 1.250× (1.230 to 1.270)" in text
    assert "4 faster 1.100× (1.080 to 1.120) not reported" in text
    document["threads"] = []
    assert "Other numbers of threads were not measured" in words(reports.html(document))


def test_plans_are_drawn_against_time_only_where_the_chosen_one_was_timed(document):
    html = reports.html(document)
    drawn = re.findall(r"<title>([^<]*), (file size|wall time)", html)
    assert [(what, *shown.split(":")[:1]) for shown, what in drawn] == [
        ("file size", "keep 0.25"), ("file size", "keep 0.3"), ("file size", "dense model"), ("file size", "keep 0.5"),
        ("wall time", "keep 0.25"), ("wall time", "dense model"), ("wall time", "keep 0.5"),
    ]  # fmt: skip
    text = words(html)
    assert "1. keep 0.5 (chosen)" in text
    assert re.search(r"3\. keep 0\.3 .* another board", text)


def test_without_other_plans_the_run_itself_is_drawn_beside_the_dense_model(document):
    document["tried"] = []
    html = reports.html(document)
    assert "dense model (reference)" in html
    assert "1. this run (chosen)" in html
    assert html.count('class="dot chosen"') == 3


def test_sustained_load_is_told_in_words_and_drawn(document):
    load = {"baseline": reports.sustained(1.0, 1.0), "candidate": reports.sustained(0.8, 1.25)}
    document["comparison"] = comparison(more={"sustained": load}).to_json()
    html = reports.html(document)
    text = words(html)
    assert "dense: steady (last fifth over first fifth" in text
    assert re.search(r"compressed: 2\d\.\d % slower at the end than at the start", text)
    assert "clock 1,920 to 2,400 MHz; temperature 45.0 to 69.8 °C" in text
    assert html.count("<polyline") == 6
    assert "slower at the end" in reports.markdown(document)


def test_sustained_load_of_each_model_alone_is_shown_too(document):
    document["profiles"]["dense"]["sustained"] = reports.sustained(1.0, 1.0).to_json()
    assert "dense: steady" in words(reports.html(document))


def test_conditions_are_shown_before_and_after(document):
    text = words(reports.html(document))
    for shown in (
        "Clock 2,400 MHz 1,800 MHz",
        "Temperature 45.5 °C 61.0 °C",
        "Governors performance",
        "Board not reported",
    ):
        assert shown in text
    document["comparison"]["conditions"] = {}
    assert "Conditions before and after" not in words(reports.html(document))


def test_nothing_may_be_fetched_sent_or_run(document):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', reports.html(document))[1]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(*colours):
    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_contrast_in_every_scheme(document):
    schemes = re.findall(r":root \{(.*?)\}", reports.html(document), re.DOTALL)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", scheme))
        for text in ("text", "muted", "compressed", "faster", "slower", "noclaim"):
            assert contrast(colours[text], colours["page"]) >= 4.5, text
        for mark in ("dense", "compressed", "mark"):
            assert contrast(colours[mark], colours["page"]) >= 3, mark


# -- Markdown --------------------------------------------------------------------------------------------------------


def rendered(markdown):
    """Markdown's tables as rows of text, and everything as HTML."""
    html = MarkdownIt("commonmark").enable("table").render(markdown)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in html.split("<tr>")[1:]]
    return cells, html


def test_markdown_has_the_same_facts(document):
    text = reports.markdown(document)
    for shown in ("# example: compression report", "| 40.55 M | 20.27 M | −50.0 % |", "Verdict on latency: **faster**"):
        assert shown in text
    cells, html = rendered(text)
    assert html.count("<table>") == 15
    assert not [row for row in cells if row[:1] == ["Wall time, p99"]]  # of so few runs
    assert ["1", "faster", "1.250× (1.230 to 1.270)", "1.250× (1.230 to 1.270)", "1.012 ms", "0.8076 ms"] in cells


def test_markdown_tables_keep_their_columns_whatever_is_in_them(document):
    document["model"] = document["versions"]["torch"] = document["arguments"]["keep"] = HOSTILE
    document["layers"][2]["reason"] = document["artifacts"][0]["path"] = HOSTILE
    document["tried"][1]["name"] = document["comparison"]["device"]["system"] = HOSTILE
    html = rendered(reports.markdown(document))[1]
    for body in re.findall(r"<table>(.*?)</table>", html, re.DOTALL):
        assert len({len(re.findall("<t[hd]", row)) for row in body.split("<tr>")[1:]}) == 1
    assert not re.search(r"<(script|a|code|em|h[2-6]) ?[^>]*>(?!Before|Lay|Lat|What|Acc|Art|Prov)", html)
    assert html.count("block&lt;script&gt;alert('x')&lt;/script&gt;&amp;&quot;end|`x` # _b_ **c** [d]") >= 8


@pytest.mark.parametrize(
    "text", ["a\\|b", "| |", "\\", "``x", "$x$", "<!-- -->", "&lt;", "~~x~~", "a\r\n\n- b", "![x](y)"]
)
def test_markdown_shows_any_text_as_it_is(text):
    ((_, shown), _), _ = rendered(f"| a | {escape(text)} |\n| --- | --- |\n| c | d |")
    unescaped = shown.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&")
    assert unescaped == " ".join(text.split())


def test_markdown_mentions_nobody_and_links_nowhere():
    assert "@someone" not in escape("ask @someone at https://a.example or www.a.example")
    assert escape("https://a.example www.a.example") == "https\\://a.example www\\.a.example"


def test_importing_is_light():
    modules = "edgecompress.reporting, edgecompress.reporting.comparing, edgecompress.reporting.checking"
    code = f"import sys, {modules}; assert not {{'torch', 'jinja2', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
