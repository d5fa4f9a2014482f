"""The report page: complete, honest, escaped, and with nothing to fetch."""

import copy
import json
import random
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from edgecompress.errors import FileError
from edgecompress.profiles import RESOLUTION, Comparison, DeviceFacts, Latency, Profile, Ratio
from edgecompress.reporting import HTML_NAME, JSON_NAME, read_report, render_html, write_report
from edgecompress.wording import summary_sentence

VOID = {"meta", "link", "br", "hr", "img", "input", "col"}
DEVICE = DeviceFacts("local", "measured", "x86_64", "Example CPU", 4, "Linux 6", "3.11.7")
RUNTIME = {"name": "onnxruntime", "version": "1.31.1", "provider": "CPUExecutionProvider"}
HOSTILE = "block<script>alert('x')</script>&\"end"
REASON = "tied: shares its weight with <another> layer"


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


def latency(typical, blocks=4, size=5, seed=0):
    noise = random.Random(seed)
    wall = tuple(tuple(typical * (1 + 0.02 * noise.random()) for _ in range(size)) for _ in range(blocks))
    return Latency(wall, wall, tuple(range(blocks)))


def comparison(wall=1.25, cpu=1.25, spread=0.02, before=1.0, **sizes):
    ratios = (Ratio(value, value - spread, value + spread) for value in (wall, cpu))
    times = latency(before, **sizes), latency(before / wall, seed=1, **sizes)
    return Comparison("dense.onnx", "model.onnx", "ab" * 32, "cd" * 32, DEVICE, RUNTIME, 1, 1, *ratios, *times)


def profile(file, size, typical):
    return Profile(
        file=file, sha256="ab" * 32, target="onnx", device=DEVICE, runtime=RUNTIME, threads=1, batch=1, size_bytes=size,
        zipped_bytes=size - 100, weight_bytes=size - 1000, params=100, macs=1000, load_ms=12.5, first_run_ms=2.0,
        peak_rss_bytes=70_000_000, runtime_rss_bytes=50_000_000, latency=latency(typical),
    )  # fmt: skip


def layer(name, *, method=None, ranks=None, error=None, reason=None, macs=2_000, kept=1_000):
    counts = {"dense": {"macs": macs, "params": 300}, "compressed": {"macs": kept, "params": 100}}
    facts = {"name": name, "kind": "Conv2d 16->16 3x3", "method": method, "ranks": ranks, "error": error}
    return facts | {"reason": reason} | counts


def artifact(role, path, size):
    facts = {"role": role, "target": "onnx", "path": path, "size_bytes": size, "zipped_bytes": size - 100}
    return facts | {"sha256": role[0].encode().hex() * 32, "max_abs_error": 3.8e-6, "sqnr_db": 130.06}


@pytest.fixture
def document():
    return {
        "kind": "edgecompress.report",
        "version": 1,
        "model": "example",
        "arguments": {"keep": 0.5, "methods": ["svd", "tucker2"], "teacher": None, "bfloat16": False},
        "versions": {"edgecompress": "0.1.0", "torch": "2.13.0"},
        "data": {"test": {"items": 10_000, "origin": "CIFAR-10 test, whole"}},
        "accuracy": {"dense": 91.73, "decomposed": 77.0, "finetuned": 90.1, "artifact": 90.1},
        "calibration": {"items": 1024, "asymmetric": True, "recalibrated": True},
        "training": {
            "epochs": 2,
            "best_epoch": 2,
            "history": [{"epoch": 1, "loss": 1.97, "score": 87.31}, {"epoch": 2, "loss": 1.62, "score": 90.42}],
        },
        "cost": {
            "dense": {"params": 269_722, "macs": 40_551_040, "flops": 81_102_080, "weight_bytes": 1_084_544},
            "compressed": {"params": 150_146, "macs": 20_267_648, "flops": 40_535_296, "weight_bytes": 606_240},
        },
        "layers": [
            layer("stem.conv", method="tucker2", ranks=[8, 16], error=0.1234),
            layer(HOSTILE, method="svd", ranks=[24], error=0.5),
            layer("head.linear", reason=REASON, kept=2_000),
        ],
        "artifacts": [artifact("dense", "dense.onnx", 1_087_212), artifact("compressed", "model.onnx", 617_720)],
        "profiles": {
            "dense": profile("dense.onnx", 1_087_212, 1.0).to_json(),
            "compressed": profile("model.onnx", 617_720, 0.8).to_json(),
        },
        "comparison": comparison().to_json(),
    }


def test_page_is_balanced_and_fetches_nothing(document):
    html = render_html(document)
    page = Page(html)
    assert not re.search(r"https?://|src=|href=|@import|url\(", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en">' in html


def test_headings_are_in_order(document):
    headings = Page(render_html(document)).headings
    assert headings[0] == 1
    assert set(headings[1:]) == {2}


def test_every_chart_has_a_label(document):
    html = render_html(document)
    charts = Page(html).charts
    assert len(charts) == 3
    assert all("the same numbers" in label for label in charts)
    assert html.count("<details") == 3


def test_hostile_strings_are_escaped_everywhere(document):
    hostile = "<script>alert(1)</script>"
    document["model"] = document["arguments"]["keep"] = document["versions"]["torch"] = hostile
    document["data"]["test"]["origin"] = document["artifacts"][0]["path"] = hostile
    html = render_html(document)
    assert "<script" not in html
    assert "<another>" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 6


def test_every_layer_is_named_with_its_method_or_its_reason(document):
    text = Page(render_html(document)).text
    for shown in ("stem.conv", HOSTILE, "head.linear", "tucker2 (8, 16)", "svd (24)", "left dense", REASON, "0.1234"):
        assert shown in text


def test_layers_without_a_closed_form_are_not_counted(document):
    document["layers"].append(layer("embedding", reason="no method for Embedding", macs=None, kept=None))
    assert "not counted" in Page(render_html(document)).text


def test_before_and_after(document):
    html = render_html(document)
    for shown in ("40.55 M", "20.27 M", "81.10 M", "269.7 k", "1.087 MB", "617.7 kB", "−44.3 %", "−1.63 points"):
        assert shown in html
    assert 'title="1,087,212 bytes"' in html
    assert 'title="40,551,040"' in html
    assert "2 × MACs" in html


def test_artifacts_and_options_are_listed(document):
    text = Page(render_html(document)).text
    for facts in document["artifacts"]:
        assert facts["sha256"] in text
    for shown in ("svd, tucker2", "not given", "Example CPU", "ONNX Runtime 1.31.1", "CIFAR-10 test, whole"):
        assert shown in text


def test_runs_beyond_the_axis_are_counted(document):
    far = [[1.0] * 999, [1.0] * 999, [1.0, 500.0]]
    document["comparison"]["baseline_latency"] |= {"wall_ms": far, "runs": 2000}
    text = Page(render_html(document)).text
    assert "1 of 2,000 dense runs (largest 500.0 ms)" in text
    assert "0 of 20 compressed runs" in text


def test_sentence_of_a_faster_model(document):
    assert summary_sentence(document) == (
        "example: 50.0 % fewer MACs, 44.3 % fewer parameters, accuracy 91.73 % -> 90.10 % (-1.63 points), "
        "measured 1.25x faster (95 % interval 1.23 to 1.27) on Example CPU, 1 thread, ONNX Runtime 1.31.1."
    )


def test_sentence_of_a_slower_model(document):
    document["comparison"] = comparison(wall=0.8, cpu=0.8, spread=0.0).to_json()
    assert "measured 1.25x slower (95 % interval 1.25 to 1.25)" in summary_sentence(document)
    text = Page(render_html(document)).text
    assert "1.25× slower" in text
    assert "Verdict on latency: slower" in text


@pytest.mark.parametrize(("wall", "cpu"), [(1.01, 1.01), (1.2, 0.8), (1.2, 1.0)])
def test_sentence_without_a_claim(document, wall, cpu):
    document["comparison"] = comparison(wall=wall, cpu=cpu).to_json()
    sentence = summary_sentence(document)
    assert "no measurable difference in latency" in sentence
    assert "faster" not in sentence
    assert "slower" not in sentence
    assert "Verdict on latency: no claim" in Page(render_html(document)).text


def test_the_rule_of_the_verdict_is_stated(document):
    text = " ".join(Page(render_html(document)).text.split())
    assert "take turns in interleaved blocks" in text
    assert f"by more than {100 * RESOLUTION:g} %" in text
    assert "bootstrap 95 % interval" in text


def test_interval_near_one_gets_a_third_decimal(document):
    document["comparison"] = comparison(wall=1.01, cpu=1.01, spread=0.006).to_json()
    assert "speed-up of wall time 1.010x (95 % interval 1.004 to 1.016), of CPU time" in summary_sentence(document)


def test_sentence_of_another_device(document):
    device = document["comparison"]["device"] | {"name": "pi", "processor": "", "machine": "aarch64"}
    document["comparison"] |= {"device": device, "provenance": "emulated", "threads": 4, "batch": 8}
    expected = "emulated 1.25x faster (95 % interval 1.23 to 1.27) on pi (aarch64), 4 threads, batch 8, ONNX Runtime"
    assert expected in summary_sentence(document)


def test_growth_is_not_hidden(document):
    document["cost"]["compressed"] |= {"macs": 81_102_080, "params": 269_722}
    assert "100.0 % more MACs, as many parameters as before" in summary_sentence(document)


@pytest.mark.parametrize("stage", ["decomposed", "finetuned"])
def test_last_known_accuracy_counts(document, stage):
    document["accuracy"] = {"dense": 91.0, stage: 80.0, "artifact": None}
    assert "accuracy 91.00 % -> 80.00 % (-11.00 points)" in summary_sentence(document)
    Page(render_html(document))


def test_optional_parts_may_be_missing(document):
    document |= dict.fromkeys(("data", "accuracy", "calibration", "training"))
    text = Page(render_html(document)).text
    for words in (
        "accuracy not measured",
        "Accuracy was not measured",
        "not fine-tuned",
        "not estimated anew",
        "The model came without data",
    ):
        assert words in text


def test_calibration_is_told_either_way(document):
    text = Page(render_html(document)).text
    assert "on 1,024 training inputs" in text
    assert "estimated anew on some of them" in text
    document["calibration"]["recalibrated"] = False
    assert "left as they are" in Page(render_html(document)).text


def test_nothing_was_measured(document):
    document |= {"comparison": None, "profiles": None, "artifacts": [], "layers": []}
    text = Page(render_html(document)).text
    assert "latency not measured" in text
    assert "Latency was not measured" in text
    assert "No file was exported" in text


def test_no_epoch_was_better(document):
    document["training"]["best_epoch"] = 0
    assert "No epoch was better" in Page(render_html(document)).text


@pytest.mark.parametrize("epochs", [0, 1, 60])
def test_any_number_of_epochs(document, epochs):
    history = [{"epoch": i + 1, "loss": 1.0, "score": 80.0 + i % 3} for i in range(epochs)]
    document["training"] = {"epochs": epochs, "best_epoch": epochs, "history": history}
    Page(render_html(document))


@pytest.mark.parametrize("typical", [0.0042, 3.3, 12_345.6])
def test_any_scale_of_latency(document, typical):
    document["comparison"] = comparison(before=typical).to_json()
    Page(render_html(document))


def test_equal_times_do_not_break_the_axis(document):
    same = Latency(((1.0, 1.0), (1.0, 1.0)), ((1.0, 1.0), (1.0, 1.0)), (0, 1)).to_json()
    document["comparison"] |= {"baseline_latency": same, "candidate_latency": copy.deepcopy(same)}
    Page(render_html(document))


def test_round_trip(document, tmp_path):
    html, data = write_report(document, tmp_path / "run")
    assert (html.name, data.name) == (HTML_NAME, JSON_NAME)
    assert html.read_text(encoding="utf-8") == render_html(document)
    assert read_report(tmp_path / "run") == document


@pytest.mark.parametrize("change", [{"version": 2}, {"kind": "edgecompress.plan"}])
def test_unknown_documents_are_refused(document, tmp_path, change):
    (tmp_path / JSON_NAME).write_text(json.dumps(document | change), encoding="utf-8")
    with pytest.raises(FileError, match=re.escape(str(tmp_path / JSON_NAME))):
        read_report(tmp_path)
    with pytest.raises(FileError):
        write_report(document | change, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_report_is_a_file_error(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_report(tmp_path)


@pytest.mark.parametrize("part", ["cost", "layers", "comparison", "versions", "arguments"])
def test_an_incomplete_document_is_a_file_error(document, part):
    del document[part]
    with pytest.raises(FileError, match="missing or malformed"):
        render_html(document)


def test_a_large_run_stays_small(document):
    document["layers"] = [
        layer(f"features.denseblock4.denselayer{i}.conv2", method="tucker2", ranks=[128, 256], error=0.25)
        for i in range(200)
    ]
    document["comparison"] = comparison(blocks=500, size=20).to_json()
    html = render_html(document)
    Page(html)
    assert len(html.encode()) < 500_000


def test_importing_is_light():
    code = "import sys, edgecompress.reporting; assert not {'torch', 'jinja2', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
