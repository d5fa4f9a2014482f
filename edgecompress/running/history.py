"""Every plan that was tried in one folder: what it kept, scored and measured; ``tried.json`` remembers."""

from __future__ import annotations

from pathlib import Path

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json, write_json
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import comparison_from
from edgecompress.reporting.wording import accuracies, place_of
from edgecompress.running.resuming import key_of

FILE = "tried.json"
KIND = "edgecompress.tried"
VERSION = 1
TOLD = ("select", "keep", "cost", "of", "methods", "recipe", "epochs", "plan")


def tried(folder: Path, model_key: str, document: Json) -> list[Json]:
    """All points of this model in this folder, that of ``document`` among them and marked as chosen."""
    own = _point(document)
    remembered = _remembered(folder / FILE, model_key)
    others = [{**point, "chosen": False} for point in remembered if point["key"] != own["key"]]
    points = [*others, own]
    if points != remembered:
        write_json(folder / FILE, {"kind": KIND, "version": VERSION, "model_key": model_key, "points": points})
    return points


def _remembered(file: Path, model_key: str) -> list[Json]:
    """What was tried before with the same model; nothing if the file is missing, damaged or of another model."""
    try:
        document = read_json(file)
        check_version(document, KIND, VERSION)
        points: list[Json] = document["points"]
        return points if document["model_key"] == model_key and all(map(_is_point, points)) else []
    except (FileError, KeyError, TypeError):
        return []


NUMBERS = ("accuracy", "macs", "size_bytes", "wall_ms")


def _is_point(point: object) -> bool:
    """Whether this is what :func:`_point` makes."""
    if not isinstance(point, dict) or not isinstance(point.get("chosen"), bool):
        return False
    texts, numbers = (point.get(key) for key in ("key", "name", "place")), (point.get(key, "") for key in NUMBERS)
    return all(isinstance(text, str) for text in texts) and all(
        number is None or type(number) in (int, float) for number in numbers
    )


def _point(document: Json) -> Json:
    pair = comparison_from(document["comparison"])
    arguments = document["arguments"]
    compressed = next(artifact for artifact in document["artifacts"] if artifact["role"] == "compressed")
    timed = pair.candidate_latency.summary()["wall"]["p50"] if isinstance(pair, Comparison) else None
    return {
        "key": key_of(arguments),
        "name": ", ".join(f"{name} {_said(arguments[name])}" for name in TOLD if arguments.get(name) is not None),
        "accuracy": accuracies(document["accuracy"])[1],
        "macs": document["cost"]["compressed"]["macs"],
        "size_bytes": compressed["size_bytes"],
        "wall_ms": timed,
        "place": place_of(document["comparison"]),
        "chosen": True,
    }


def _said(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)
