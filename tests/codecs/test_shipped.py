"""The shipped files of codes, decoded and scored by NumPy alone, and the .onnx that the package makes of them."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.codecs.payload import load
from edgecompress.sources import resolve
from edgecompress.storing import decoded, onnx_bytes
from tests.codecs import plain_decoder
from tests.processes import ROOT

RESULTS = ROOT / "benchmarks" / "results"
ROWS = [
    row
    for row in json.loads((RESULTS / "storage.json").read_text(encoding="utf-8"))["rows"]
    if row["setting"] == "smallest"
]
MNIST = Path(os.environ.get("EDGECOMPRESS_DATA", "")) / "mnist"
BLOCK = 500

Array = np.ndarray[Any, Any]


def read(name: str, head: int) -> Array:
    return np.frombuffer(gzip.decompress((MNIST / name).read_bytes()), np.uint8)[head:]


def convolved(images: Array, kernel: Array) -> Array:
    """(N, C, H, W) with (T, C, k, k), without padding."""
    windows = np.lib.stride_tricks.sliding_window_view(images, kernel.shape[2:], axis=(2, 3))
    return np.moveaxis(np.tensordot(windows, kernel, ((1, 4, 5), (1, 2, 3))), 3, 1)


def pooled(images: Array) -> Array:
    count, channels, height, width = images.shape
    return images.reshape(count, channels, height // 2, 2, width // 2, 2).max((3, 5))


def lenet5(images: Array, found: plain_decoder.Decoded) -> Array:
    weights, biases = found.weights, found.biases

    def bias(name: str) -> Array:
        return biases.get(name, np.zeros(len(weights[name])))

    for name in ("conv1", "conv2"):
        images = pooled(convolved(images, weights[name]) + bias(name)[:, None, None])
    hidden = np.maximum(images.reshape(len(images), -1) @ weights["fc1"].T + bias("fc1"), 0)
    return hidden @ weights["fc2"].T + bias("fc2")


def lenet300(images: Array, found: plain_decoder.Decoded) -> Array:
    hidden = images.reshape(len(images), -1)
    for name in ("fc1", "fc2", "fc3"):
        hidden = hidden @ found.weights[name].T + found.biases.get(name, 0)
        hidden = hidden if name == "fc3" else np.maximum(hidden, 0)
    return hidden


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['network']}-{row['seed']}")
def test_the_files_are_those_of_the_results(row: dict[str, Any]) -> None:
    file = RESULTS / "storage" / f"{row['network']}-{row['seed']}.ectk"
    assert file.stat().st_size == row["payload_bytes"]
    params = {"lenet5": 431_080, "lenet300": 266_610}[row["network"]]
    assert row["ratio"] == pytest.approx(32 * params / (8 * file.stat().st_size))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['network']}-{row['seed']}")
@pytest.mark.slow
def test_their_onnx_is_as_small_as_the_results_say(row: dict[str, Any]) -> None:
    sample = resolve(row["network"])
    stored = load(RESULTS / "storage" / f"{row['network']}-{row['seed']}.ectk")
    taken = onnx_bytes(decoded(sample.model(), stored), sample)
    assert taken == pytest.approx(row["onnx_bytes"], abs=16)
    assert taken < {"lenet5": 4_000, "lenet300": 6_000}[row["network"]]


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="needs the whole MNIST in EDGECOMPRESS_DATA/mnist")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['network']}-{row['seed']}")
def test_they_score_what_the_results_say(row: dict[str, Any]) -> None:
    found = plain_decoder.decode((RESULTS / "storage" / f"{row['network']}-{row['seed']}.ectk").read_bytes())
    pixels, labels = read("t10k-images-idx3-ubyte.gz", 16), read("t10k-labels-idx1-ubyte.gz", 8)
    images = (pixels.reshape(-1, 1, 28, 28) / 255 - 0.1307) / 0.3081
    network = {"lenet5": lenet5, "lenet300": lenet300}[row["network"]]
    said = np.concatenate([network(images[at : at + BLOCK], found).argmax(1) for at in range(0, len(images), BLOCK)])
    assert 100 * np.mean(said != labels) == pytest.approx(row["error"], abs=0.03)
