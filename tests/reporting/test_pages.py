"""The report's page in a real browser: quiet, offline, readable on a phone, in the dark and on paper."""

import json
import re
import shutil
import subprocess

import pytest

from edgecompress.reporting import HTML_NAME, write_report
from tests import reports

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: `apt-get install chromium`")

PHONE = 360
OWN_ACCOUNT = "not an origin"
POLICY = re.compile(r"<meta http-equiv[^>]*>")
PAGES = {
    "measured": lambda: reports.resnet20(minutes=1),
    "emulated": lambda: reports.emulated(reports.document()),
    "bare": lambda: reports.bare(reports.document()),
}
FRAME = f"""<!DOCTYPE html><html><body><iframe src="page.html" width="{PHONE}" height="900"></iframe><script>
addEventListener("message", event => document.body.setAttribute("data-told", event.data))</script></body></html>"""
PROBE = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
  inner: innerWidth, needed: document.documentElement.scrollWidth,
  background: getComputedStyle(document.body).backgroundColor,
  shown: [...document.querySelectorAll(".panel")].filter(one => one.offsetHeight).map(one => one.classList[1]),
}), "*"))</script>"""


def browse(folder, page, *flags):
    """Chromium on one file without a network: what it prints, the console, and the addresses that the page asked for.

    What the browser asks for on its own account has no page as its initiator.
    """
    log = folder / "net.json"
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
        "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0", *flags, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    events = [event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"]]
    asked = [event["url"] for event in events if event.get("initiator", OWN_ACCOUNT) != OWN_ACCOUNT]
    away = [url for url in asked if not url.startswith(("file:", "data:"))]
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr), away


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every kind of report, as files."""
    root = tmp_path_factory.mktemp("pages")
    return {name: write_report(reports.report(made()), root / name)[0] for name, made in PAGES.items()}


def framed(folder, page, *flags, change=lambda html: html):
    """What a copy of the page tells of itself in a frame as wide as a phone; the copy's policy lets the probe run."""
    html = POLICY.sub("", change(page.read_text(encoding="utf-8")))
    (folder / "page.html").write_text(html.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME, encoding="utf-8")
    dom, _, _ = browse(folder, folder / "frame.html", "--dump-dom", "--virtual-time-budget=2000", *flags)
    return json.loads(re.search(r'data-told="([^"]*)"', dom)[1].replace("&quot;", '"'))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_a_complaint_or_a_request_and_has_its_tables(written, tmp_path, name):
    dom, complaints, asked = browse(tmp_path, written[name], "--dump-dom")
    assert complaints == []
    assert asked == []
    assert dom.count("<table") == written[name].read_text(encoding="utf-8").count("<table") >= 4
    assert "How to read this page" in dom


@pytest.mark.parametrize("policy", [True, False])
def test_the_policy_keeps_scripts_and_requests_out(written, tmp_path, policy):
    smuggled = '<script>console.log("ran")</script><img src="https://a.example/x.png"></body>'
    html = written["bare"].read_text(encoding="utf-8").replace("</body>", smuggled)
    page = tmp_path / HTML_NAME
    page.write_text(html if policy else POLICY.sub("", html), encoding="utf-8")
    _, console, asked = browse(tmp_path, page, "--dump-dom")
    assert asked == ([] if policy else ["https://a.example/x.png"])
    assert any('"ran"' in line for line in console) is not policy


@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out_on_a_phone(written, tmp_path, name):
    told = framed(tmp_path, written[name])
    assert told["inner"] == PHONE
    assert told["needed"] <= PHONE


def test_the_chosen_quantity_is_the_one_shown(written, tmp_path):
    def choose_time(html):
        return html.replace(" checked>", ">").replace('class="show-wall_ms"', 'class="show-wall_ms" checked')

    assert framed(tmp_path, written["measured"])["shown"] == ["macs"]
    assert framed(tmp_path, written["measured"], change=choose_time)["shown"] == ["wall_ms"]


@pytest.mark.slow
def test_the_page_is_dark_where_the_reader_prefers_it(written, tmp_path):
    light, dark = (
        framed(tmp_path, written["bare"], f"--blink-settings=preferredColorScheme={scheme}")["background"]
        for scheme in (1, 0)
    )
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 27)")


@pytest.mark.slow
def test_the_page_prints(written, tmp_path):
    paper = tmp_path / "report.pdf"
    browse(tmp_path, written["measured"], f"--print-to-pdf={paper}")
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12


def test_every_scrolling_table_can_be_reached_by_keyboard(written):
    html = written["measured"].read_text(encoding="utf-8")
    regions = re.findall(r'<div class="scroll"[^>]*>', html)
    assert len(regions) == html.count("<table")
    assert all('tabindex="0"' in region and "aria-label=" in region for region in regions)
    assert ":focus-visible" in html
