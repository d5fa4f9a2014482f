"""What a bundle's model says of itself in its own file, for whoever opens it without the manifest.

Written when a bundle is made, not when a model is exported: the exported file stays what was measured. Nothing of it is
rewritten: formats of protocol buffers take further fields at their end, a .tflite an archive of further files. An .ort
takes neither: the table of its model has no field for facts unless its .onnx had some, and could not point to the end.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.bundling.archives import LONG_AGO
from edgecompress.sources import sample_facts

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact
    from edgecompress.manifests import Input

METADATA_PROPS, KEY, VALUE = 14, 1, 2
"""Of ONNX's ModelProto, and of an entry of it (onnx.proto)."""
DESCRIPTION, METADATA, USER_DEFINED = 2, 100, 100
"""Of Core ML's Model, ModelDescription and Metadata (Model.proto)."""
COREML = {"description": 1, "version": 2, "author": 3, "license": 4}
COREML_SPEC = "Data/com.apple.CoreML/model.mlmodel"
TFLITE_FILE = "edgecompress.json"


def facts_of(artifact: Artifact, taking: Input, labels: tuple[str, ...]) -> dict[str, str]:
    """Author, licence, description and version, and how inputs are prepared; what is not known is left out."""
    known = sample_facts().get(artifact.model, {})
    plan = json.dumps(artifact.plan.to_json(), sort_keys=True) if artifact.plan else ""
    facts = {
        "author": known.get("source", ""),
        "license": known.get("licence", ""),
        "description": f"{artifact.model}, {artifact.precision}, {'compressed' if plan else 'dense'}",
        "version": artifact.sha256[:16],
        "labels": "\n".join(labels),
        "preprocessing": json.dumps(asdict(taking.preprocessing)) if taking.preprocessing else "",
        "plan_sha256": sha256(plan.encode()).hexdigest() if plan else "",
        "exported_sha256": artifact.sha256,
        "edgecompress": artifact.versions.get("edgecompress", ""),
    }
    return {key: value for key, value in facts.items() if value}


def describe(target: str, model: Path, facts: Mapping[str, str]) -> bool:
    """Append facts to a bundle's model; returns whether its format has a place for them.

    Raises:
        OSError: it cannot be written.
    """
    if target == "onnx":
        _append(model, b"".join(_field(METADATA_PROPS, _entry(key, value)) for key, value in facts.items()))
    elif target == "coreml":
        _append(model / COREML_SPEC, _coreml(facts))
    elif target == "litert":
        _append(model, _archive(facts, model.stat().st_size))
    else:
        return False
    return True


def _append(file: Path, content: bytes) -> None:
    with file.open("ab") as stream:
        stream.write(content)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes as protocol buffers have it: tag, length, content."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _entry(key: str, value: str) -> bytes:
    return _field(KEY, key.encode()) + _field(VALUE, value.encode())


def _coreml(facts: Mapping[str, str]) -> bytes:
    """Fields of its metadata, which a reader merges with those that are there."""
    named = b"".join(_field(COREML[key], value.encode()) for key, value in facts.items() if key in COREML)
    others = b"".join(_field(USER_DEFINED, _entry(key, value)) for key, value in facts.items() if key not in COREML)
    return _field(DESCRIPTION, _field(METADATA, named + others))


def _archive(facts: Mapping[str, str], start: int) -> bytes:
    """A zip archive that lies behind so many bytes of model: the convention of associated files of TFLite metadata."""
    stream = io.BytesIO()
    stream.write(b"\0" * start)  # so that places in the archive count from the file's beginning
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in ((TFLITE_FILE, json.dumps(dict(facts))), ("labels.txt", facts.get("labels", ""))):
            if text:
                archive.writestr(zipfile.ZipInfo(name, LONG_AGO), text)
    return stream.getvalue()[start:]
