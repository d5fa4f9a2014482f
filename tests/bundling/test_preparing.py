"""Images become inputs as they must, in the package and in ``deploy/pi/run.py`` alike."""

from __future__ import annotations

import runpy
import struct
import zlib
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecompress.bundling.golden_files import pattern
from edgecompress.bundling.png import png
from edgecompress.bundling.preparing import prepare
from edgecompress.files import resource
from edgecompress.manifests import Input, Preprocessing

STEPS = Preprocessing((4, 5), "RGB", "stretch", "bilinear", 1 / 255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
TAKING = Input("x", "float32", ("batch", 3, 4, 5), "NCHW", STEPS)
PI = runpy.run_path(str(resource("deploy") / "pi" / "run.py"))


def taking(**changes: Any) -> Input:
    """An input with other preprocessing."""
    return replace(TAKING, preprocessing=replace(STEPS, **changes))


def test_an_image_of_the_right_size_is_normalised_as_in_pytorch() -> None:
    pixels = pattern(4, 5, 3)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (STEPS.mean, STEPS.std))
    wanted = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - mean) / std
    for one in (TAKING, taking(resize="none"), taking(resize="centre-crop"), taking(interpolation="nearest")):
        torch.testing.assert_close(torch.from_numpy(prepare(pixels, one)), wanted, rtol=1e-6, atol=1e-6)


def test_layouts_and_colours() -> None:
    pixels = pattern(4, 5, 3)
    usual = prepare(pixels, TAKING)
    assert np.array_equal(prepare(pixels, replace(TAKING, layout="NHWC")), usual.transpose(0, 2, 3, 1))
    steps = replace(STEPS, color="BGR", mean=STEPS.mean[::-1], std=STEPS.std[::-1])
    assert np.array_equal(prepare(pixels, replace(TAKING, preprocessing=steps)), usual[:, ::-1])
    alpha = np.concatenate([pixels, pattern(4, 5, 1)], axis=2)
    assert np.array_equal(prepare(alpha, TAKING), usual)
    gray = taking(color="gray", mean=(0.0,), std=(1.0,), scale=1.0)
    for level in range(256):
        assert prepare(np.full((4, 5, 3), level, np.uint8), gray).tolist() == np.full((1, 1, 4, 5), level).tolist()
    assert prepare(np.array([[[255, 0, 0]]], np.uint8).repeat(4, 0).repeat(5, 1), gray)[0, 0, 0, 0] == 76


@pytest.mark.parametrize("size", [(9, 11), (2, 3), (30, 7), (4, 5)])
def test_bilinear_is_that_of_pytorch_with_antialiasing(size: tuple[int, int]) -> None:
    pixels = pattern(*size, 3)
    steps = replace(STEPS, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    wanted = torch.nn.functional.interpolate(image, (4, 5), mode="bilinear", antialias=True, align_corners=False)
    ours = torch.from_numpy(prepare(pixels, replace(TAKING, preprocessing=steps))).double()
    torch.testing.assert_close(ours, wanted, rtol=0, atol=2e-5)


def test_the_middle_is_cut_out_without_changing_proportions() -> None:
    pixels = np.zeros((4, 9, 3), np.uint8)
    pixels[:, 2:7] = pattern(4, 5, 3)
    assert np.array_equal(prepare(pixels, taking(resize="centre-crop")), prepare(pixels[:, 2:7], TAKING))


def test_what_is_not_resized_is_refused() -> None:
    with pytest.raises(ValueError, match="the image is 3 x 5, the model takes 4 x 5"):
        prepare(pattern(3, 5, 3), taking(resize="none"))


sides = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(
    sides, sides, st.sampled_from([1, 3, 4]), sides, sides, st.sampled_from(["gray", "RGB", "BGR"]),
    st.sampled_from(["stretch", "centre-crop"]), st.sampled_from(["bilinear", "nearest"]),
    st.sampled_from(["NCHW", "NHWC"]),
)  # fmt: skip
def test_the_runner_prepares_the_same(
    height: int, width: int, channels: int, rows: int, columns: int, color: Any, resize: Any, interpolation: Any,
    layout: Any,
) -> None:  # fmt: skip
    several = 1 if color == "gray" else 3
    steps = Preprocessing((rows, columns), color, resize, interpolation, 0.01, (0.3,) * several, (0.7,) * several)
    one = Input("x", "float32", (1, 1, 1, 1), layout, steps)
    pixels = pattern(height, width, channels)
    assert np.array_equal(prepare(pixels, one), PI["prepare"](pixels, asdict(one)))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_pixels_and_no_profile(channels: int) -> None:
    pixels = pattern(5, 7, channels)
    content, chunks = png(pixels), {}
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place = 8
    while place < len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        chunks[kind] = content[place + 8 : place + 8 + size]
        (checksum,) = struct.unpack(">I", content[place + 8 + size : place + 12 + size])
        assert checksum == zlib.crc32(kind + chunks[kind])
        place += 12 + size
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}
    assert struct.unpack(">IIBBBBB", chunks[b"IHDR"]) == (7, 5, 8, 0 if channels == 1 else 2, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(5, 1 + 7 * channels)
    assert np.array_equal(rows[:, 1:].reshape(5, 7, channels), pixels)
    assert not rows[:, 0].any()
