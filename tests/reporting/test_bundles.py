"""The bytes of bundles in a report: the model's beside its runtime's, what is not known by that name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecompress.reporting import write_report
from edgecompress.reporting.wording import size_sentence
from tests import reports


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_a_report_has_the_bytes_of_model_and_runtime(name: str, tmp_path: Path) -> None:
    write_report(reports.report(reports.document()), tmp_path)
    text = (tmp_path / name).read_text()
    for shown in ("292,160", "55,916,689", "onnxruntime 1.31.1", "not known"):
        assert shown in text, shown


def test_a_report_without_bundles_has_no_table(tmp_path: Path) -> None:
    document = reports.document()
    del document["bundles"]
    write_report(reports.report(document), tmp_path)
    assert "Downloaded, bytes" not in (tmp_path / "report.md").read_text()


def test_sizes_in_a_sentence() -> None:
    (bundle,) = reports.report(reports.document()).bundles
    assert size_sentence(bundle) == "pi: the model takes 292.2 kB, onnxruntime 1.31.1 55.92 MB"
    known = replace(bundle, library_bytes_compressed=21_413_526)
    assert size_sentence(known).endswith(", 21.41 MB as it is downloaded")
    assert size_sentence(replace(bundle, library_bytes=None)).endswith("what onnxruntime 1.31.1 takes is not known")
