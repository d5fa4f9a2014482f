"""What readers in all languages are tested on beside ``bad_manifests.json``: tricks of JSON, and images to prepare."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from tests.bundling.test_bad_manifests import SET

TRICKS = {
    "a key twice": ('"version": 2', '"version": 2, "version": 2'),
    "a key twice, once escaped": ('"version": 2', '"version": 2, "v\\u0065rsion": 2'),
    "a number too large": ('"tolerance": 0.0001', '"tolerance": 1e-999'),
    "a size too large": ('"size_bytes": 80', '"size_bytes": 99999999999999999999'),
    "a zero in a name": ('"name": "x"', '"name": "x\\u0000y"'),
    "half a character": ('"name": "x"', '"name": "\\ud800"'),
    "no UTF-8": ('"name": "x"', '"name": "\xff"'),
    "NaN": ('"tolerance": 0.0001', '"tolerance": NaN'),
    "a comma too many": ('"version": 2', '"version": 2,'),
    "too deep": ('"notes": {}', '"notes": ' + "[" * 200 + "]" * 200),
    "more after it": ('"notes": {}}', '"notes": {}} {}'),
    "a shape beyond memory": ("[3, 1, 2, 3]", "[4611686018427387904, 4611686018427387904, 2, 3]"),
}
"""What stands in the good manifest, and what instead; all of it is refused."""


def preparations() -> Iterator[tuple[dict[str, Any], tuple[int, int, int], tuple[int, int]]]:
    """Manifests, height, width and channels of an image, and the size it gets."""
    sizes = [((21, 8), (9, 11)), ((5, 7), (5, 7)), ((3, 2), (17, 4)), ((64, 48), (6, 6)), ((1, 1), (3, 2))]
    choices = product(("gray", "RGB", "BGR"), ("stretch", "centre-crop"), ("nearest", "bilinear"), ("NCHW", "NHWC"))
    for number, (color, resize, interpolation, layout) in enumerate(choices):
        count = 1 if color == "gray" else 3
        steps = {"size": [2, 3], "color": color, "resize": resize, "interpolation": interpolation, "scale": 1 / 255,
                 "mean": [0.4, 0.5, 0.6][:count], "std": [0.2, 0.3, 0.25][:count]}  # fmt: skip
        manifest = json.loads(json.dumps(SET["good"]))
        sides = [count, 2, 3] if layout == "NCHW" else [2, 3, count]
        manifest["inputs"][0] |= {"shape": ["batch", *sides], "layout": layout, "preprocessing": steps}
        manifest["golden"]["inputs"][0]["shape"] = [3, *sides]
        manifest["golden"]["image"] = None
        size = next(file for file in manifest["files"] if file["path"] == "golden/input_0.bin")
        size["size_bytes"] = 3 * 6 * count * 4
        for channels in (1, 3, 4):
            given, wanted = sizes[(number + channels) % len(sizes)]
            yield manifest, (*given, channels), wanted
