"""From operators as a runtime names them to the layers of the model they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from edgecompress.files import Json
from edgecompress.profiles import Operator
from edgecompress.targets.products import PRODUCTS

CHANGED = re.compile(r"^fused |_nchwc$|_token_\d+$")
"""What ONNX Runtime adds to the name of a node that it fuses or lays out anew."""
FUSED = ("Add", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
"""What ONNX Runtime fuses into the product before it."""
SLOWER = 1.05
NOTICED_MS = 0.002
"""A layer got slower if it takes so many times as long, and so much longer: times are whole microseconds."""


def with_layers(path: Path, operators: Iterable[Operator]) -> tuple[Operator, ...]:
    """Operators with the layer, as ``layer1.0.conv1.reduce``, whose product or activation they are."""
    layers = _layers_of_onnx(path) if path.suffix == ".onnx" else {}
    return tuple(replace(operator, layer=_layer(operator, layers)) for operator in operators)


def _layers_of_onnx(path: Path) -> dict[str, tuple[str, str]]:
    """By the names of nodes and of what they give: the layer, and that of the last product up to there.

    Nodes are named ``LAYER/Conv``. A product that is fused with what follows is named by what that gives.
    """
    import onnx

    found: dict[str, tuple[str, str]] = {}
    for node in onnx.load(str(path), load_external_data=False).graph.node:
        layer = node.name.rpartition("/")[0]
        before = (found[name][1] for name in node.input if name in found)
        product = layer if node.op_type in PRODUCTS["onnx"] else next(before, "") if node.op_type in FUSED else ""
        found |= dict.fromkeys([node.name, *node.output], (layer, product))
    return found


def _layer(operator: Operator, layers: dict[str, tuple[str, str]]) -> str | None:
    plain = CHANGED.sub("", CHANGED.sub("", operator.name))
    layer, product = layers.get(plain, (plain.rpartition("/")[0], ""))
    is_product = any(operator.kind.endswith(kind) for kind in PRODUCTS["onnx"])
    return (product if is_product and product else layer) or None


def source_layer(layer: str | None, names: Iterable[str]) -> str | None:
    """Of the model's layers ``names``, the one that ``layer`` is or is a link of: ``fc1`` for ``fc1.reduce``."""
    if layer is None:
        return None
    mine = (name for name in names if layer == name or layer.startswith((f"{name}.", f"{name}/")))
    return max(mine, key=len, default=None)


def layer_times(operators: Sequence[Operator], names: Sequence[str]) -> dict[str | None, tuple[float, float]]:
    """Milliseconds of each of the model's layers, in the quicker and in the slower round; under None of all others."""
    rounds: dict[str | None, tuple[float, float]] = {}
    for operator in operators:
        layer = source_layer(operator.layer, names)
        first, second = rounds.get(layer, (0.0, 0.0))
        again_ms = operator.wall_ms if operator.again_ms is None else operator.again_ms
        rounds[layer] = first + operator.wall_ms, second + again_ms
    return {layer: (min(both), max(both)) for layer, both in rounds.items()}


def with_second_round(first: Sequence[Operator], second: Sequence[Operator]) -> tuple[Operator, ...]:
    """Operators with their times in another round of the same file; as they are where those are not the same ones.

    Kinds and layers tell: ONNX Runtime numbers some of the names anew in each session.
    """
    if [(one.kind, one.layer) for one in first] != [(one.kind, one.layer) for one in second]:
        return tuple(first)
    return tuple(replace(one, again_ms=again.wall_ms) for one, again in zip(first, second, strict=True))


def is_slower(before_ms: float | None, after_ms: float | None) -> bool | None:
    """Whether a layer got slower by more than such times waver; None if one is not known."""
    if before_ms is None or after_ms is None:
        return None
    return after_ms > SLOWER * before_ms and after_ms - before_ms > NOTICED_MS


def compared_layers(dense: Sequence[Operator], compressed: Sequence[Operator], names: Sequence[str]) -> list[Json]:
    """Each layer's milliseconds before and after, and whether it got slower; last, without a name, all others.

    Times are those of the quicker round; slower is what in its quicker round takes longer than before in the slower.
    """
    unknown = None, None
    before, after = (layer_times(operators, names) for operators in (dense, compressed))
    rows = []
    for name in [*names, None]:
        (dense_ms, at_most_ms), (compressed_ms, _) = before.get(name, unknown), after.get(name, unknown)
        slower = is_slower(at_most_ms, compressed_ms)
        rows.append({"name": name, "dense": dense_ms, "compressed": compressed_ms, "slower": slower})
    return rows
