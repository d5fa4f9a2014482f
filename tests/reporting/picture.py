"""The README's picture: the first screen of the demo's report. ``make demo && python -m tests.reporting.picture``."""

from __future__ import annotations

import base64
import sys
import tempfile
from pathlib import Path

from tests.platforms.chromium import browser
from tests.processes import ROOT

REPORT = ROOT / "out" / "demo" / "report.html"
PICTURE = ROOT / "docs" / "pictures" / "report.webp"
WIDTH = 1000


def main(report: Path = REPORT, picture: Path = PICTURE) -> None:
    """From the top of the page to the end of its first screen."""
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as chromium:
        page = chromium.page(WIDTH, 640)
        page.call("Emulation.setScrollbarsHidden", hidden=True)
        page.open(report.resolve().as_uri())
        height = page.wait("document.querySelector('#before-and-after')?.getBoundingClientRect().top")
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": int(height), "scale": 1}
        shot = page.call("Page.captureScreenshot", format="webp", quality=85, clip=clip)
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
