"""From operators as a runtime names them to the layers of the model they come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from edgecompress.files import Json
from edgecompress.profiling.latencies import Latency
from edgecompress.profiling.profiles import Operator, Profile
from edgecompress.profiling.ratios import Ratio
from edgecompress.targets.products import PRODUCTS

CHANGED = re.compile(r"^fused |_nchwc$|_token_\d+$")
"""What ONNX Runtime adds to the name of a node that it fuses or lays out anew."""
FUSED = ("Add", "Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh")
"""What ONNX Runtime fuses into the product before it."""
SLOWER = 1.05
NOTICED_MS = 0.002
"""A layer seems slower if it takes so many times as long, and so much longer: times are whole microseconds."""


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


@dataclass(frozen=True, slots=True)
class FileTimes:
    """A file's operators, and what the whole file takes in milliseconds.

    ``whole_ms`` is that beside each round of the operators, without a profiler; empty where it is not known: times of
    operators then hold what the profiler adds, and nothing may be said of them. ``latency_ms`` is the median of the
    file when it takes turns with the other one; operators' times are brought to that, so that what the machine did
    meanwhile cancels and layers add up to the latency the verdict is about.
    """

    operators: tuple[Operator, ...] = ()
    whole_ms: tuple[float, ...] = ()
    latency_ms: float | None = None

    def scales(self) -> tuple[float, float]:
        """What the times of the first and of the second round are multiplied by."""
        if not self.whole_ms or self.latency_ms is None:
            return 1.0, 1.0
        return self.latency_ms / self.whole_ms[0], self.latency_ms / self.whole_ms[-1]

    def outside_ms(self) -> float | None:
        """What the file takes outside all operators."""
        if not self.whole_ms or self.latency_ms is None:
            return None
        return max(0.0, self.latency_ms - sum(sum(both) / 2 for both in layer_times(self, ()).values()))

    def overhead_ms(self, layer: str | None, names: Sequence[str]) -> float:
        """What the profiler added to the operators of a layer."""
        mine = [one for one in self.operators if source_layer(one.layer, names) == layer]
        return sum((one.profiled_ms or one.wall_ms) - one.wall_ms for one in mine)

    def links(self, layer: str | None, names: Sequence[str]) -> set[str | None]:
        """The names of the links that a layer has here; of a dense one its own."""
        return {one.layer for one in self.operators if source_layer(one.layer, names) == layer}


def file_times(profile: Profile | None, latency: Latency | None = None) -> FileTimes:
    """What a profile, and the latency of the file when taking turns, say of its layers."""
    if profile is None:
        return FileTimes()
    both = (profile.whole_ms, profile.whole_again_ms)
    whole = tuple(one for one in both if one is not None)
    return FileTimes(profile.operators, whole, median(latency.all_wall_ms()) if latency else None)


def layer_times(file: FileTimes, names: Sequence[str]) -> dict[str | None, tuple[float, float]]:
    """Milliseconds of each of the model's layers, in the first and in the second round; under None of all others."""
    rounds: dict[str | None, tuple[float, float]] = {}
    now, then = file.scales()
    for operator in file.operators:
        layer = source_layer(operator.layer, names)
        first, second = rounds.get(layer, (0.0, 0.0))
        again_ms = operator.wall_ms if operator.again_ms is None else operator.again_ms
        rounds[layer] = first + now * operator.wall_ms, second + then * again_ms
    return rounds


def with_second_round(first: Sequence[Operator], second: Sequence[Operator]) -> tuple[Operator, ...]:
    """Operators with their times in another round of the same file; as they are where those are not the same ones.

    Kinds and layers tell: ONNX Runtime numbers some of the names anew in each session.
    """
    if [(one.kind, one.layer) for one in first] != [(one.kind, one.layer) for one in second]:
        return tuple(first)
    return tuple(replace(one, again_ms=again.wall_ms) for one, again in zip(first, second, strict=True))


def is_slower(before_ms: float, after_ms: float) -> bool:
    """Whether a layer got slower by more than such times waver."""
    return after_ms > SLOWER * before_ms and after_ms - before_ms > NOTICED_MS


def suspects(dense: FileTimes, compressed: FileTimes, names: Sequence[str]) -> list[str]:
    """Layers that were replaced and seem slower, in the quicker round than before in the slower; the most so first."""
    before, after = (layer_times(file, names) for file in (dense, compressed))
    excess = {name: min(after[name]) - max(before[name]) for name in names if name in before and name in after}
    seeming = [name for name in excess if is_slower(max(before[name]), min(after[name]))]
    replaced = [name for name in seeming if dense.links(name, names) != compressed.links(name, names)]
    return sorted(replaced, key=lambda name: -excess[name])


@dataclass(frozen=True, slots=True)
class ComparedLayer:
    """A layer's milliseconds before and after; without a name all that is no layer's.

    ``slower`` is None where that cannot be said; ``ablation`` is the time of the whole compressed file with the dense
    layer in place of its chain over that of the file.
    """

    name: str | None
    dense: float | None
    compressed: float | None
    slower: bool | None = None
    ablation: Ratio | None = None

    def to_json(self) -> Json:
        """A JSON object."""
        known = {"name": self.name, "dense": self.dense, "compressed": self.compressed, "slower": self.slower}
        ablation = self.ablation
        return known | ({"ablation": {"speedup": ablation.value, "ci95": ablation.ci95}} if ablation else {})


def compared_layers(
    dense: FileTimes, compressed: FileTimes, names: Sequence[str], ablations: Mapping[str, Ratio] | None = None
) -> list[ComparedLayer]:
    """Each layer's milliseconds before and after, and whether it got slower; last, without a name, all others.

    ``ablations`` are ratios of the time of the whole compressed file with the dense layer in place of its chain over
    that of the file: where there is one it decides. Without one, only what stays slower if the profiler added twice as
    much is called slower; True and False are shown, None is not.
    """
    known = ablations or {}
    before, after = (layer_times(file, names) for file in (dense, compressed))
    rows = []
    for name in [*names, None]:
        times = before.get(name), after.get(name)
        dense_ms, compressed_ms = (both and sum(both) / 2 for both in times)
        ablation = None if name is None else known.get(name)
        slower = None
        if ablation is not None:
            slower = ablation.resolved and ablation.value < 1
        elif name is not None:
            slower = _seems_slower(name, dense, compressed, names, *times)
        rows.append(ComparedLayer(name, dense_ms, compressed_ms, slower, ablation))
    return rows


def _seems_slower(
    name: str,
    dense: FileTimes,
    compressed: FileTimes,
    names: Sequence[str],
    before: tuple[float, float] | None,
    after: tuple[float, float] | None,
) -> bool | None:
    """False if it does not, True if it does however much the profiler added; None of what is not known."""
    if before is None or after is None or not dense.whole_ms or not compressed.whole_ms:
        return None
    if not is_slower(max(before), min(after)):
        return False
    replaced = dense.links(name, names) != compressed.links(name, names)
    spare = compressed.overhead_ms(name, names) * max(compressed.scales())
    return True if replaced and is_slower(max(before), min(after) - spare) else None
