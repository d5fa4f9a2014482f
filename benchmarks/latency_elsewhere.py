"""Plans for a latency in other runtimes, on emulated cores and of a ResNet-18: beside plans by MACs at equal loss.

    EDGECOMPRESS_DATA=... python benchmarks/latency_elsewhere.py [PLACE ...] [--times] [--table]

A place is a net, a runtime and a device (``PLACES``; default: all). Its candidates are weighed once; for each fraction
of the latency rivals are measured as ``plan --keep F --of latency`` measures them, and beside the winner are put the
plans by MACs at multiples of 8 and of 16 whose expected loss is nearest to the winner's. Rows are written one by one
and skipped when the benchmark is started again; a fraction that no plan reaches is said, and has none. Then all plans
of a place take turns as whole files with the dense one, which adds a run to what is known (``--times`` does only this;
on emulated cores instructions are counted once).
"""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import strftime
from typing import Any

import torch
from real_nets import Net, Unlabelled
from rows import Row, put_in_readme
from torch import Tensor, nn

from edgecompress.artifacts import versions
from edgecompress.calibrating import Calibration, calibration_of
from edgecompress.devices import device_named
from edgecompress.errors import BudgetError
from edgecompress.models import Sample
from edgecompress.planning import Survey, survey, weighed_choices
from edgecompress.plans import Cost
from edgecompress.selectors import Budget
from edgecompress.selectors.base import Choices, LayerCandidates
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.settings import Scope
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.timing import Bench, Timings, bench_of, timings
from edgecompress.timing.closing import closed
from edgecompress.timing.planning import scored_chains
from edgecompress.timing.plateaus import known_multiple
from edgecompress.timing.pooling import Pool
from edgecompress.timing.rivals import Rivals, chains_of, loss_of, of_multiple
from edgecompress.timing.stopwatches import load_here

RESULTS = Path(__file__).with_name("results") / "latency_elsewhere.json"
IMAGES, SEED, SIDE, DECAY = 1024, 0, 224, 0.5
MULTIPLES, STEPS, TURNS, LOADS = (8, 16), 512, 64, 8


FEWER = ("spatial_svd", "cp3", "tucker2")
"""Methods where candidates take seconds each to convert."""


@dataclass(frozen=True)
class Place:
    """A net, a runtime, a device, the fractions of the latency to keep, methods (none: the usual), images for losses.

    With ``made_for`` no plans are made: those for that device are taken.
    """

    net: str
    target: str
    device: str = "local"
    keeps: tuple[float, ...] = (0.8, 0.65, 0.5)
    methods: tuple[str, ...] = ()
    made_for: str = ""
    images: int = IMAGES

    @property
    def scope(self) -> Scope:
        """What plans are made of."""
        return Scope(methods=self.methods)

    @property
    def key(self) -> str:
        """As on the command line."""
        return f"{self.net},{self.target},{self.device}"

    def plans(self, rows: Sequence[Row]) -> list[Row]:
        """Its rows, or those of the device that its plans were made for."""
        key = replace(self, device=self.made_for or self.device).key
        return [row for row in rows if row["place"] == key]


PLACES = (
    Place("resnet20", "openvino", methods=FEWER, images=256),
    Place("resnet20", "ncnn", methods=FEWER),
    Place("resnet20", "onnx", "emulated:cortex-a53"),
    Place("resnet20", "onnx", "emulated:cortex-a76", made_for="emulated:cortex-a53"),
    Place("resnet18", "onnx", keeps=(0.7, 0.5, 0.35), methods=("svd", "spatial_svd", "tucker2"), images=32),
)


def main() -> None:
    """Rows that are missing, a run of times, the tables."""
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"plans": [], "times": []}
    wanted = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    for place in PLACES if "--table" not in sys.argv else ():
        if wanted and place.key not in wanted:
            continue
        for row in planned(place, known["plans"]) if "--times" not in sys.argv else ():
            known["plans"].append(row)
            _keep(known)
            print(place.key, row["keep"], row["rule"], flush=True)
        if place.plans(known["plans"]):
            known["times"].append(times(place, known["plans"]))
            _keep(known)
    put_in_readme("latency_elsewhere", table(known))


def _keep(known: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def sample_of(net: str) -> Sample:
    """A sample of the package, or the ResNet-18."""
    if net != "resnet18":
        return resolve(net)
    unlabelled = Unlabelled(pictures(32))
    return Net(net, resnet18, unlabelled, unlabelled).sample


def pictures(count: int) -> Tensor:
    """Smooth noise, (N, 3, 224, 224): neighbours are alike, as in photographs."""
    noise = torch.randn(count, 3, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(SEED))
    return nn.functional.interpolate(noise, size=(SIDE, SIDE), mode="bicubic")


def resnet18() -> nn.Module:
    """ResNet-18 with seeded weights whose spectra over both channel modes fall, as those of trained nets do."""
    torch.manual_seed(SEED)
    widths = (64, 64, 128, 128, 256, 256, 512, 512)
    blocks = [Block(before, width) for before, width in zip((64, *widths), widths, strict=False)]
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    return nn.Sequential(OrderedDict((str(at), layer) for at, layer in enumerate((*stem, *blocks, *head)))).eval()


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        stride = 1 if before == width else 2
        self.conv1 = falling(nn.Conv2d(before, width, 3, stride, 1, bias=False))
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = falling(nn.Conv2d(width, width, 3, 1, 1, bias=False))
        self.bn2 = nn.BatchNorm2d(width)
        shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.shortcut: nn.Module = nn.Identity() if stride == 1 else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """As there."""
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


def falling(layer: nn.Conv2d) -> nn.Conv2d:
    """Its weights, scaled in random bases of outputs and inputs."""
    weight = layer.weight.detach()
    for axis in (0, 1):
        size = weight.shape[axis]
        basis = torch.linalg.qr(torch.randn(size, size))[0] * torch.arange(1, size + 1) ** -DECAY
        weight = torch.tensordot(basis, weight, dims=([1], [axis])).movedim(0, axis)
    weight = weight * (2 / weight[0].numel()) ** 0.5 / weight.std()
    layer.weight = nn.Parameter(weight)
    return layer


def opened(place: Place) -> tuple[Sample, Survey, Callable[[], Any]]:
    """The net, its layers, and what opens a bench for it."""
    sample = sample_of(place.net)
    seen = survey(sample.model(), sample.inputs, place.scope)
    return sample, seen, lambda: bench_of(sample, seen, target_named(place.target), device_named(place.device))


def planned(place: Place, rows: Sequence[Row]) -> Iterator[Row]:
    """A row for each fraction that has none."""
    missing = [keep for keep in place.keeps if (place.key, keep) not in {(row["place"], row["keep"]) for row in rows}]
    if not missing or place.made_for:
        return
    sample, seen, bench_for = opened(place)
    torch.set_num_threads(os.cpu_count() or 1)
    with bench_for() as bench:
        found, layers, total = weighed(bench, seen, place, calibration_of(sample, place.images, SEED))
        multiple = found.multiple or known_multiple(place.target, place.device)
        for keep in missing:
            rivals = Rivals(layers, found.prices, total, multiple, Ceilings(keep=keep, of="latency"))
            try:
                best, measured = closed(bench, rivals, keep, shown)
            except BudgetError as unmet:
                print(place.key, keep, unmet, flush=True)
                continue
            by_macs = {str(one): of_loss(layers, seen.total, one, best.loss) for one in MULTIPLES}
            yield {
                "place": place.key, "keep": keep, "multiple": multiple, **best.to_json(),
                "macs": {one: as_json(choices) for one, choices in by_macs.items()},
                "rivals": [{key: value for key, value in one.to_json().items() if key != "chains"} for one in measured],
                "load": round(load_here(), 1),
            }  # fmt: skip


def weighed(
    bench: Bench, seen: Survey, place: Place, calibration: Calibration
) -> tuple[Timings, Sequence[LayerCandidates], Cost]:
    """Times, candidates with losses, and the dense model's cost with its time."""
    keep, scope = min(place.keeps), place.scope
    found = timings(bench, seen, scope, progress=shown)
    total = found.prices.total(seen.total)
    first = Ceilings(keep=keep, of="latency", time=round(keep * total.time))
    priced = replace(seen, total=total)
    layers, _ = weighed_choices(priced, first, scope, calibration=calibration, prices=found.prices, progress=shown)
    return timings(bench, seen, scope, more=scored_chains(layers), progress=shown), layers, total


def shown(stage: str, done: int, count: int, detail: str) -> None:
    """A line for each step."""
    print(f"{strftime('%X')} {stage} {done}/{count} {detail}", file=sys.stderr, flush=True)


def of_loss(layers: Sequence[LayerCandidates], total: Cost, multiple: int, loss: float) -> Choices:
    """The plan by MACs, of ranks that are multiples, whose expected loss is nearest."""
    own = of_multiple(layers, multiple)
    low, high, found = 0, STEPS, list[Choices]()
    while high - low > 1:
        step = (low + high) // 2
        try:
            found.append(Budget(step / STEPS).select(own, total))
        except BudgetError:  # so few MACs cannot be had
            low = step
            continue
        low, high = (step, high) if loss_of(found[-1]) > loss else (low, step)
    return min(found, key=lambda choices: abs(loss_of(choices) - loss))


def as_json(choices: Choices) -> Row:
    """Chains and the expected loss of a plan."""
    chains = {name: [method, *ranks] for name, (method, ranks) in chains_of(choices).items()}
    return {"loss": loss_of(choices), "chains": chains}


def chains_from(stored: Row) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The inverse of what a plan's chains are stored as."""
    return {name: (str(method), tuple(map(int, ranks))) for name, (method, *ranks) in stored["chains"].items()}


def times(place: Place, rows: Sequence[Row]) -> Row:
    """One run: the plans of a place in turns as whole files; of the ResNet-18 the dense file in int8 too."""
    own = place.plans(rows)
    plans = {f"{row['keep']:g} latency": chains_from(row) for row in own}
    plans |= {f"{row['keep']:g} MACs {one}": chains_from(plan) for row in own for one, plan in row["macs"].items()}
    sample, _, bench_for = opened(place)
    load = load_here()
    with bench_for() as bench:
        graphs = [bench.file({}), *map(bench.file, plans.values())]
        graphs += [in_int8(sample)] if place.net == "resnet18" else []
        loads = 1 if bench.counts else LOADS
        series = bench.watch.take(graphs, TURNS, loads)
        names, pool = ["dense", *plans, "int8"][: len(graphs)], Pool(exact=bench.counts)
        pool.add(dict(zip(names, series, strict=True)), loads)
        rivals = {name: f"{name.split()[0]} latency" for name in names if "MACs" in name}
        return {
            "place": place.key, "machine": bench.circumstances.machine, "runtime": bench.circumstances.runtime,
            "unit": bench.unit, "dense": sorted(series[0])[len(series[0]) // 2], "processors": os.cpu_count(),
            "load": [round(load, 1), round(load_here(), 1)], "turns": len(series[0]), "loads": loads,
            "versions": versions(), "speedup": {name: pool.ratio(name, "dense").to_json() for name in names[1:]},
            "pairs": {f"{one} / {best}": pool.ratio(best, one).to_json() for one, best in rivals.items()},
        }  # fmt: skip


def in_int8(sample: Sample) -> Any:
    """The dense net's file in int8."""
    from tempfile import TemporaryDirectory

    import onnx

    from edgecompress.exporting import ExportOptions, export

    with TemporaryDirectory() as folder:
        return onnx.load_model(export(sample.model(), sample, Path(folder), options=ExportOptions("int8")).path)


def table(known: dict[str, Any]) -> str:
    """Markdown: a table for each place."""
    return "\n".join(filter(None, (_of_place(place, known) for place in PLACES)))


def _of_place(place: Place, known: dict[str, Any]) -> str:
    runs = [run for run in known["times"] if run["place"] == place.key]
    rows = sorted(place.plans(known["plans"]), key=lambda row: -row["keep"])
    if not runs or not rows:
        return ""
    last = runs[-1]
    counts = last["unit"] != "ns"
    dense = f"{last['dense'] / 1e6:.2f} {'million instructions' if counts else 'ms'}"
    machine = place.device if counts else last["machine"]
    made = f"; plans made for {place.made_for}" if place.made_for else ""
    load = made if counts else f"; load {', '.join(f'{a:.1f} to {b:.1f}' for a, b in (run['load'] for run in runs))}"
    int8 = [run["speedup"]["int8"] for run in runs if "int8" in run["speedup"]]
    titles = ["keep", "winner", "loss", "predicted", "measured"]
    titles += [f"against MACs, multiples of {one} (loss)" for one in MULTIPLES]
    return "\n".join(
        [
            f"{place.net}, {last['runtime']}, {machine}, 1 thread, batch 1; dense {dense}{load}.",
            "",
            f"| {' | '.join(titles)} |",
            f"|{' --- |' * len(titles)}",
            *(_line(row, runs) for row in rows),
            *(f"| dense in int8 | | | | {'; '.join(map(_ratio, int8))} | | |" for _ in int8[:1]),
            "",
        ]
    )


def _line(row: Row, runs: Sequence[Row]) -> str:
    keep = f"{row['keep']:g}"
    measured = "; ".join(_ratio(run["speedup"][f"{keep} latency"]) for run in runs)
    against = [
        "; ".join(_ratio(run["pairs"][f"{keep} MACs {one} / {keep} latency"]) for run in runs)
        + f" ({row['macs'][str(one)]['loss']:.3g})"
        for one in MULTIPLES
    ]
    return (
        f"| {keep} | {row['rule']} | {row['loss']:.3g} | {row['predicted']:.2f}x | {measured} | {' | '.join(against)} |"
    )


def _ratio(one: Row) -> str:
    low, high = one["ci95"]
    return f"{one['value']:.3f}x" + (f" ({low:.3f} to {high:.3f})" if high > low else "")


if __name__ == "__main__":
    main()
