"""What stays in float is chosen in one way for all formats: by pattern, by mask, by what feeds an output."""

from __future__ import annotations

import numpy as np
import pytest

from edgecompress.errors import ExportError
from edgecompress.targets.litert import layers_in
from edgecompress.targets.mixed_precision import MASKED, KeepFloat, Magnitudes, Operator, float_facts, float_operators


def operator(name: str, inputs: str, output: str, *, product: bool = False) -> Operator:
    layer, _, kind = name.rpartition("/")
    return Operator(name, kind, (layer,), tuple(inputs.split()), (output,), name, product)


GRAPH = [
    operator("stem/Conv", "x", "a", product=True),
    operator("stem/Relu", "a", "b"),
    operator("box.0/Conv", "b", "c", product=True),
    operator("box.1/Sigmoid", "c", "d"),
    operator("score/CONV_2D", "b", "e", product=True),
    operator("LOGISTIC", "e", "f"),
    operator("Concat", "d f", "out"),
    operator("aux/Conv", "b", "other", product=True),
]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (KeepFloat(), []),
        (KeepFloat(outputs=(0,)), ["Concat", "LOGISTIC", "box.1/Sigmoid"]),
        (KeepFloat(outputs=(1,)), []),
        (KeepFloat(outputs=(1,), depth=1), ["aux/Conv", "stem/Relu"]),
        (
            KeepFloat(outputs=(0,), depth=1),
            ["Concat", "LOGISTIC", "box.0/Conv", "box.1/Sigmoid", "score/CONV_2D", "stem/Relu"],
        ),
        (KeepFloat(outputs=(0, 1), depth=2), sorted(each.name for each in GRAPH)),
        (KeepFloat(("box",)), ["box.0/Conv", "box.1/Sigmoid"]),
        (KeepFloat(("box.1", "stem*")), ["box.1/Sigmoid", "stem/Conv", "stem/Relu"]),
        (KeepFloat(("Sigmoid",)), ["LOGISTIC", "box.1/Sigmoid"]),
        (KeepFloat(("conv",)), ["aux/Conv", "box.0/Conv", "score/CONV_2D", "stem/Conv"]),
    ],
)
def test_operators_are_chosen_by_layer_kind_and_output(keep: KeepFloat, expected: list[str]) -> None:
    assert sorted(float_operators(GRAPH, ["out", "other"], keep)) == expected


def test_makers_and_readers_of_a_wide_tensor_stay_in_float_and_the_reason_is_told() -> None:
    found = float_operators(GRAPH, ["out", "other"], KeepFloat(("aux",), (0,), 0, "scores are lost"), {"b"})
    assert float_facts(GRAPH, found) == {
        "kept_float": {
            MASKED: ["stem/Relu", "box.0/Conv", "score/CONV_2D"],
            "scores are lost": ["box.1/Sigmoid", "LOGISTIC", "Concat"],
            "--keep-float aux": ["aux/Conv"],
        }
    }


def test_a_pattern_that_fits_nothing_is_an_error_that_names_what_there_is() -> None:
    with pytest.raises(ExportError, match=r"^--keep-float 'head\.\*' fits no layer .*aux, box\.0.*operators.*Conv"):
        float_operators(GRAPH, ["out"], KeepFloat(("head.*",)))


SPREAD = np.random.default_rng(0).normal(size=400).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "wide"),
    [
        (SPREAD, False),
        (1e6 * SPREAD, False),
        (np.concatenate([SPREAD, np.full(80, -np.inf)]), True),
        (np.concatenate([SPREAD, SPREAD[:50] + np.finfo(np.float32).min]), True),
        (np.concatenate([SPREAD, SPREAD[:50] - 1e4]), True),
        (np.array([0, 1e9] * 40), False),
        (np.append(SPREAD, 1e-9), False),
        (np.repeat(np.float32([1, 1e-6]), 100), False),
    ],
)
def test_a_mask_among_other_numbers_makes_a_tensor_wide(values: np.ndarray, wide: bool) -> None:
    magnitudes = Magnitudes()
    magnitudes.add(values.astype(np.float32))
    assert magnitudes.wide() is wide
    assert KeepFloat.from_json(KeepFloat(("a",), (1,), 2, "b").to_json()) == KeepFloat(("a",), (1,), 2, "b")


def test_layers_are_read_from_the_names_a_tflite_gives_its_tensors() -> None:
    layers = {"body.0", "body.1", "self_attn.out_proj", "my.deep_block"}
    folded = "pkg.Net/torch.nn.Sequential_body/torch.nn.ReLU_1;;n"
    assert layers_in([folded, "pkg.Net/torch.nn.Sequential_body/torch.nn.Conv2d_0;"], layers) == ("body.1", "body.0")
    assert layers_in(["a.Net/b.MultiheadAttention_self_attn/c.Linear_out_proj;2"], layers) == ("self_attn.out_proj",)
    assert layers_in(["a.Net/b.My_Block_my/c.Sub_Block_deep_block"], layers) == ("my.deep_block",)
    assert layers_in(["serving_default_output_0_output", "a.Net;4"], layers) == ()
