"""Facts in a bundle's model file: read by the format's own library, and the model answers as before."""

from __future__ import annotations

import importlib.util
import json
import os
import zipfile
from pathlib import Path

import onnx
import pytest

from edgecompress.bundling import bundle
from edgecompress.bundling.checking import check
from edgecompress.bundling.metadata import COREML_SPEC, describe
from edgecompress.exporting import export
from tests.bundling.small import LABELS, small_artifact, small_sample

FACTS = {"author": "somebody", "license": "MIT", "description": "ä" * 200, "version": "1", "labels": "a\nb"}
ALL_TARGETS = "EDGECOMPRESS_ALL_TARGETS" in os.environ
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of coremltools


def test_an_onnx_file_holds_them_and_is_else_the_same(tmp_path: Path) -> None:
    artifact = small_artifact(tmp_path)
    bundle(artifact.path, tmp_path / "app")
    content = (tmp_path / "app" / "model.onnx").read_bytes()
    assert content.startswith(artifact.path.read_bytes())
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert facts["labels"].split("\n") == LABELS
    assert json.loads(facts["preprocessing"])["mean"] == [0.4, 0.5, 0.6]
    assert facts["exported_sha256"] == artifact.sha256
    assert "author" not in facts
    golden = check(tmp_path / "app").golden_error
    assert golden is not None
    assert golden < 1e-6


def test_a_core_ml_package_holds_them(tmp_path: Path) -> None:
    (tmp_path / COREML_SPEC).parent.mkdir(parents=True)
    (tmp_path / COREML_SPEC).write_bytes(b"\x08\x07")  # specificationVersion 7
    assert describe("coreml", tmp_path, FACTS)
    if importlib.util.find_spec("coremltools") is None:
        pytest.skip("coremltools is not installed")
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model.FromString((tmp_path / COREML_SPEC).read_bytes())
    told = spec.description.metadata
    assert (spec.specificationVersion, told.author, told.license) == (7, "somebody", "MIT")
    assert (told.shortDescription, told.versionString) == (FACTS["description"], "1")
    assert dict(told.userDefined) == {"labels": "a\nb"}


def test_a_tflite_file_ends_with_an_archive_of_them(tmp_path: Path) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(b"model" * 100)
    assert describe("litert", file, FACTS)
    assert file.read_bytes().startswith(b"model" * 100)
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert json.loads(archive.read("edgecompress.json")) == FACTS
        assert archive.read("labels.txt") == b"a\nb"


def test_other_formats_have_no_place(tmp_path: Path) -> None:
    assert not describe("ort", tmp_path / "model.ort", FACTS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not ALL_TARGETS, reason="needs all targets: make test-all")
@pytest.mark.parametrize("target", ["litert", "coreml"])
def test_real_files_are_read_as_before(target: str, tmp_path: Path) -> None:
    from edgecompress.targets import target_named

    sample, format_ = small_sample(), target_named(target)
    artifact = export(sample.model(), sample, tmp_path, target=target)
    assert describe(target, artifact.path, FACTS)
    assert format_.signature(artifact.path) == (artifact.inputs, artifact.outputs)
    if format_.runs_here:
        given, wanted = artifact.golden()
        found = format_.load(artifact.path)(given)
        assert all(abs(found[name] - wanted[name]).max() < 1e-5 for name in wanted)
