"""``deploy/common/manifest.schema.json`` takes what is written, and describes the same fields as the values do."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

import pytest

from edgecompress import manifests
from edgecompress.files import resource
from edgecompress.manifests.reading import FACTS
from tests.bundling.test_bad_manifests import CASES, SET, text_of

SCHEMA = json.loads((resource("deploy") / "common" / "manifest.schema.json").read_text(encoding="utf-8"))
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None)}


def problems(value: Any, schema: dict[str, Any], at: str = "") -> list[str]:
    """What of a value a schema refuses: the keywords that the schema of manifests uses."""
    if "$ref" in schema:
        return problems(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], at)
    if "anyOf" in schema:
        each = [problems(value, one, at) for one in schema["anyOf"]]
        return [] if [] in each else each[0]
    if "enum" in schema or "const" in schema:
        return [] if value in schema.get("enum", [schema.get("const")]) and not isinstance(value, bool) else [at]
    if not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool):
        return [f"{at} is no {schema['type']}"]
    return _in_bounds(value, schema, at) + _inside(value, schema, at)


def _in_bounds(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    number, size = (value, 1) if isinstance(value, int | float) else (0, len(value or ()))
    wrong = [
        number < schema.get("minimum", number),
        number > schema.get("maximum", number),
        number == schema.get("exclusiveMinimum") or number < schema.get("exclusiveMinimum", number),
        size < schema.get("minItems", size),
        size > schema.get("maxItems", size),
        isinstance(value, str) and not re.search(schema.get("pattern", ""), value),
        isinstance(value, str) and size > schema.get("maxLength", size),
    ]
    return [f"{at} is out of bounds"] if any(wrong) else []


def _inside(value: Any, schema: dict[str, Any], at: str) -> list[str]:
    if isinstance(value, list):
        return (
            [
                one
                for index, item in enumerate(value)
                for one in problems(item, schema.get("items", {}), f"{at}/{index}")
            ]
            if "items" in schema
            else []
        )
    if not isinstance(value, dict):
        return []
    lacking = [f"{at} has no {key}" for key in schema.get("required", ()) if key not in value]
    known = schema.get("properties", {})
    return lacking + [one for key in value if key in known for one in problems(value[key], known[key], f"{at}/{key}")]


def test_the_good_one_is_taken() -> None:
    assert problems(SET["good"], SCHEMA) == []


BEYOND = (
    "the ",
    "listed",
    "another",
    "more ",
    "other ",
    "differ by",
    "twice",
    "lies in",
    "lists",
    "resized to another",
)
"""Words of cases that contradict themselves, which a schema does not see."""


def test_bad_ones_are_refused() -> None:
    seen = 0
    for name, case in CASES.items():
        text = text_of(case)
        if "text" in case and not text.endswith("}"):
            continue
        taken = not problems(json.loads(text), SCHEMA)
        assert not taken or any(word in name for word in BEYOND) or "preprocessing" in name, name
        seen += not taken
    assert seen > 90


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        (manifests.Runtime, "runtime"),
        (manifests.Preprocessing, "preprocessing"),
        (manifests.Input, "input"),
        (manifests.Output, "output"),
        (manifests.TensorFile, "tensor"),
        (manifests.Resized, "resized"),
        (manifests.GoldenImage, "image"),
        (manifests.Golden, "golden"),
        (manifests.ListedFile, "file"),
        (manifests.Licences, "licences"),
        (manifests.Verified, "verified"),
    ],
)
def test_the_fields_are_those_of_the_values(value: Any, schema: str) -> None:
    described = SCHEMA["$defs"][schema]
    assert set(described["properties"]) == set(described["required"]) == {field.name for field in fields(value)}


def test_names_are_those_of_the_values() -> None:
    own = {field.name for field in fields(manifests.Manifest)} - {"facts"}
    assert set(SCHEMA["properties"]) == own | set(FACTS) | {"kind", "version"}
    assert SCHEMA["$defs"]["path"]["pattern"] == f"^{manifests.PATH.pattern}$"
    enums = {
        "role": (SCHEMA["$defs"]["file"], manifests.ROLES),
        "kind": (SCHEMA["$defs"]["output"], manifests.OUTPUT_KINDS),
        "color": (SCHEMA["$defs"]["preprocessing"], manifests.COLORS),
        "resize": (SCHEMA["$defs"]["preprocessing"], manifests.RESIZES),
        "interpolation": (SCHEMA["$defs"]["preprocessing"], manifests.INTERPOLATIONS),
    }
    assert all(tuple(place["properties"][key]["enum"]) == names for key, (place, names) in enums.items())
    assert set(SCHEMA["$defs"]["dtype"]["enum"]) == set(manifests.ITEM_BYTES)
