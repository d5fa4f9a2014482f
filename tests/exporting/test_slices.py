"""Outputs are judged slice by slice: what one number for a tensor hides is found, what no int8 could hold is not."""

from __future__ import annotations

import numpy as np
import pytest

from edgecompress.exporting.slices import compare_slices, described


def normal(*size: int) -> np.ndarray:
    """Seeded normal numbers."""
    return np.random.default_rng(len(size)).normal(size=size)


def rounded(values: np.ndarray, steps: int = 255) -> np.ndarray:
    """In eight bits with one scale for all of them."""
    step = np.ptp(np.append(values, 0)) / steps
    return (np.round(values / step) * step).astype(np.float32)


def detections(scale: float = 640.0) -> np.ndarray:
    """(32, 7, 16): four channels of 0.3 to 1 times ``scale``, three of 0.1 to 0.7."""
    random = np.random.default_rng(0)
    parts = [random.uniform(0.3 * scale, scale, (32, 4, 16)), random.uniform(0.1, 0.7, (32, 3, 16))]
    return np.concatenate(parts, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("arranged", "place"),
    [
        (lambda found: found, r"output\[:, 4:7\]"),
        (lambda found: found.transpose(0, 2, 1), r"output\[:, :, 4:7\]"),
        (lambda found: found.reshape(32, -1), r"output\[:, 64:112\]"),
        (lambda found: found.reshape(32, 7, 4, 4), r"output\[:, 4:7\]"),
        (lambda found: found[:, [4, 0, 1, 5, 2, 3, 6]], r"output\[:, 0, 3, 6\]"),
        (lambda found: found[:, :, 0], r"output\[:, 4:7\]"),
    ],
)
def test_scores_that_share_a_scale_with_boxes_are_lost_wherever_they_lie(arranged, place: str) -> None:  # type: ignore[no-untyped-def]
    expected = arranged(detections())
    (finding,) = compare_slices([expected], [rounded(expected)], "int8")
    assert finding.fatal
    assert finding.output == 0
    with pytest.raises(AssertionError, match=place + r" is constant in the file, 0\.1\d*\.\.0\.\d+ in PyTorch"):
        raise AssertionError(finding.text)


def test_noise_instead_of_a_channel_is_no_correlation() -> None:
    expected = normal(64, 3).astype(np.float32)
    found = expected.copy()
    found[:, 1] = np.roll(found[:, 1], 7)
    assert "output_1[:, 1] has a correlation of" in described(
        compare_slices([expected, expected], [expected, found], "int8")
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_equal_outputs_have_no_findings(precision: str) -> None:
    for values in (detections(), np.zeros((8, 3), np.float32), np.full((9, 2), np.float32(-np.inf)), np.arange(9)):
        assert compare_slices([values], [values], precision) == ()


def fine() -> list[tuple[str, np.ndarray]]:
    """Outputs that int8 may round."""
    logits = normal(64, 10) * 25
    certain = np.exp(logits - logits.max(1, keepdims=True))
    maps = np.maximum(normal(16, 8, 6, 6), 0)
    maps[:, 3] = 0
    maps[0, 3, 2, 2] = 0.01  # a channel that fires once
    steady = normal(64, 4) * [1, 1, 1e-3, 1] + [0, 2, 3, 0]
    return [
        ("logits", logits),
        ("certain", certain / certain.sum(1, keepdims=True)),
        ("relu", maps),
        ("steady", steady),
        ("one number", normal(64, 1) + 3),
        ("one axis", normal(64)),
        ("large", np.concatenate([1e4 + 1e-3 * normal(64, 1), normal(64, 1) * 2e3], 1)),
    ]


@pytest.mark.parametrize(("name", "expected"), fine())
def test_what_eight_bits_can_hold_passes(name: str, expected: np.ndarray) -> None:
    expected = expected.astype(np.float32)
    assert described(compare_slices([expected], [rounded(expected)], "int8")) == "", name


def test_a_slice_of_a_few_steps_is_worth_another_try_but_not_wrong() -> None:
    expected = detections(110.0)
    (finding,) = compare_slices([expected], [rounded(expected)], "int8")
    assert not finding.fatal
    assert "output[:, 4:7] has a correlation of" in finding.text


def test_a_whole_output_needs_a_signal_above_its_noise() -> None:
    expected = normal(64, 8).astype(np.float32)
    noisy = expected + 0.29 * normal(8, 64).T.astype(np.float32)
    assert described(compare_slices([expected], [noisy], "int8")).startswith("output has an SQNR of 10.")
    assert described(compare_slices([expected], [expected + 0.01], "fp32")) != ""
    assert described(compare_slices([expected], [expected + 1e-5], "fp32")) == ""


def test_a_sigmoid_far_below_zero_may_end_where_the_runtime_ends_it() -> None:
    logits = normal(16, 3, 64) * 4 + np.array([0, 0, -30]).reshape(3, 1)
    found = 1 / (1 + np.exp(-logits.clip(-18, 18)))
    expected = 1 / (1 + np.exp(-logits))
    assert compare_slices([expected], [found], "fp32") == ()
    assert compare_slices([expected[:, 2]], [found[:, 2]], "fp32") == ()
    lost = np.where(np.arange(3).reshape(3, 1) == 1, 0.5, found)
    assert described(compare_slices([expected], [lost], "fp32")).startswith("output[:, 1] is constant in the file")


def test_numbers_that_are_infinite_in_the_file_alone_are_found() -> None:
    expected = detections()
    found = expected.copy()
    found[3, 2, 1] = np.nan
    assert (
        described(compare_slices([expected], [found], "fp16"))
        == "output has 1 numbers that are not finite in the file alone"
    )
