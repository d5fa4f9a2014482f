"""Search settings of stored nets: many small trainings side by side on one GPU, judged on the validation split.

    EDGECOMPRESS_DATA=... python benchmarks/search_storage.py lenet5 '{"rank": [11, 14], "rate": [0.02, 0.03]}' [SEEDS]

Every combination of the values given (others: the preset ``smallest``) is trained as ``compress --method scada_tucker``
trains it, SEEDS (8) times, all with the same batches. What has the same sizes, epochs, mixup and temperature is one run
of stacked weights, its step captured as a CUDA graph: on an H100 a step of 24 LeNet-5 takes 7 ms. One line each: the
mean error on the validation split as floats and rounded, with its standard error, and the bytes by the codes' entropy.
On a CPU it works and is slow. Of training it shares the schedule of held numbers with the package and
nothing else: a second opinion on it, too.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.codecs.planning import plan_storage
from edgecompress.codecs.rounding import SLOWER
from edgecompress.codecs.settings import Storage
from edgecompress.datasets import batches, size
from edgecompress.resolving import presets, resolve
from edgecompress.storing import held_share

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHARED = ("rank", "order", "mix_axes", "epochs", "round_epochs", "mixup", "temperature")
"""Settings that all nets of one run have in common."""
DEFAULTS: dict[str, Any] = {
    "order": 3,
    "mix_axes": False,
    "mixup": 0.0,
    "temperature": 4.0,
    "weight_decay": 0.0,
    "damp": 2e-4,
}
BATCH, CLIP, SECOND_MOMENT, WARM_UP = 128, 5.0, 0.99, 0.3
WARMING_STEPS, TINY = 3, 1e-9

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """The train and validation splits of a sample, whole, on the device."""

    inputs: Tensor
    targets: Tensor
    judged_inputs: Tensor
    judged_targets: Tensor

    @classmethod
    def of(cls, network: str) -> Data:
        """Read both splits."""
        found = []
        for split in ("train", "validation"):
            dataset = resolve(network).data(split)
            pairs = list(batches(dataset, 1000, torch.arange(size(dataset))))
            found += [torch.cat([inputs[0] for inputs, _ in pairs]), torch.cat([targets for _, targets in pairs])]
        return cls(*(tensor.to(DEVICE) for tensor in found))


class Nets:
    """E nets with one shared core each, as one table (E, numbers): the core, then the matrices of each layer."""

    def __init__(self, network: str, settings: Settings, seeds: Sequence[int]) -> None:
        rank, order = int(settings["rank"]), int(settings["order"])
        sample = resolve(network)
        storage = Storage("scada_tucker", rank, order=order, mix_axes=bool(settings["mix_axes"]))
        layers = plan_storage(sample.model(), sample.inputs, storage).layers
        self.network, self.count, self.ranks = network, len(seeds), (rank,) * order
        self.shapes, self.dims = [layer.shape for layer in layers], [layer.dims for layer in layers]
        self.sizes = [rank**order, *(d * rank for dims in self.dims for d in dims)]
        self.scales = [math.sqrt(2 / prod(shape[1:]) / rank**order) for shape in self.shapes]
        owner = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        self.owner = owner.to(DEVICE)
        self.of_factor = functional.one_hot(self.owner, len(self.sizes)).float()
        self.fresh = torch.stack([_normal(sum(self.sizes), seed) for seed in seeds]).to(DEVICE)

    def weights(self, numbers: Tensor) -> list[Tensor]:
        """Of every layer (E, *shape)."""
        core, *matrices = numbers.split(self.sizes, 1)
        made, order = [], len(self.ranks)
        for at, (shape, dims) in enumerate(zip(self.shapes, self.dims, strict=True)):
            whole = core
            for mode, (d, matrix) in enumerate(zip(dims, matrices[at * order :], strict=False)):
                front = whole.reshape(self.count, self.ranks[mode], -1).transpose(1, 2)
                whole = torch.bmm(front, matrix.view(self.count, d, -1).transpose(1, 2))
            made.append(self.scales[at] * whole.reshape(self.count, *shape))
        return made

    def logits(self, numbers: Tensor, inputs: Tensor) -> Tensor:
        """(E, N, classes) of (N, 1, 28, 28)."""
        dtype = torch.bfloat16 if self.network == "lenet5" else torch.float32
        weights, hidden = [weight.to(dtype) for weight in self.weights(numbers)], inputs.to(dtype)
        if self.network == "lenet5":
            first, second, *weights = weights
            hidden = functional.max_pool2d(functional.conv2d(hidden, first.flatten(0, 1)), 2)
            hidden = functional.max_pool2d(functional.conv2d(hidden, second.flatten(0, 1), groups=self.count), 2)
            hidden = hidden.view(len(inputs), self.count, -1).transpose(0, 1)
        else:
            hidden = hidden.reshape(1, len(inputs), -1).expand(self.count, -1, -1)
        for at, weight in enumerate(weights):
            hidden = torch.bmm(hidden.relu() if at else hidden, weight.transpose(1, 2))
        return hidden.float()


def _normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


class Training:
    """One phase, of floats or with rounding, of all nets; ``each`` holds a column of every setting that differs."""

    def __init__(self, nets: Nets, data: Data, settings: Settings, each: Mapping[str, Tensor], epochs: int) -> None:
        self.nets, self.data, self.settings, self.each = nets, data, settings, each
        self.numbers, self.epoch = nets.fresh.clone().requires_grad_(), len(data.inputs) // BATCH
        self.steps = epochs * self.epoch
        self.teacher = resolve(nets.network).model().to(DEVICE).eval().requires_grad_(requires_grad=False)
        self.at, generator = torch.zeros(1, dtype=torch.long, device=DEVICE), torch.Generator().manual_seed(epochs)
        orders = [torch.randperm(len(data.inputs), generator=generator) for _ in range(epochs)]
        rows = torch.cat([order[: len(order) // BATCH * BATCH] for order in orders]).view(-1, BATCH)
        alpha, places = float(settings["mixup"]), [torch.randperm(BATCH, generator=generator) for _ in rows]
        shares = torch.distributions.Beta(alpha, alpha).sample((len(rows),)) if alpha else torch.ones(len(rows))
        columns = (rows, torch.stack(places), shares, *_one_cycle(self.steps))
        self.rows, self.places, self.shares, self.rates, self.momenta = (column.to(DEVICE) for column in columns)
        self.trained: list[Tensor] = [self.numbers]
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    def now(self, column: Tensor) -> Tensor:
        """The entry of a column for this step."""
        return column.index_select(0, self.at)[0]

    def used(self) -> Tensor:
        """The numbers that the nets compute with."""
        return self.numbers

    def loss(self) -> Tensor:
        """Of every net (E): distillation and cross-entropy, mixed."""
        own, other, share = self.now(self.rows), self.now(self.places), self.now(self.shares)
        inputs, targets = self.data.inputs[own], self.data.targets[own]
        inputs = share * inputs + (1 - share) * inputs[other]
        outputs, heat = self.nets.logits(self.used(), inputs), float(self.settings["temperature"])
        with torch.no_grad():
            said = (self.teacher(inputs) / heat).log_softmax(1).expand_as(outputs)
        told = functional.kl_div((outputs / heat).log_softmax(2), said, reduction="none", log_target=True)
        chances = outputs.log_softmax(2)
        right, mixed = (
            chances.gather(2, _column(of, self.nets.count)).mean((1, 2)) for of in (targets, targets[other])
        )
        entropy = -(share * right + (1 - share) * mixed)
        return self.each["distill"] * told.sum(2).mean(1) * heat**2 + (1 - self.each["distill"]) * entropy

    def step(self) -> None:
        """One of Adam, with the gradient of each net clipped on its own."""
        gradients = torch.autograd.grad(self.loss().sum(), self.trained)
        with torch.no_grad():
            norms = torch.stack([g.square().sum(1) for g in gradients]).sum(0).sqrt()
            clip, number = (CLIP / (norms + 1e-6)).clamp(max=1)[:, None], self.at + 1
            rate, momentum = (self.each["rate_now"] * self.now(self.rates))[:, None], self.now(self.momenta)
            for value, gradient, mean, square in zip(self.trained, gradients, self.means, self.squares, strict=True):
                clipped = clip * gradient + self.each["weight_decay"][:, None] * value
                mean.copy_(momentum * mean + (1 - momentum) * clipped)
                square.copy_(SECOND_MOMENT * square + (1 - SECOND_MOMENT) * clipped.square())
                root = (square / (1 - SECOND_MOMENT**number)).sqrt() + 1e-8
                value.sub_(rate * mean / (1 - momentum**number) / root)
            self.at.add_(1)

    def run(self) -> None:
        """All steps."""
        self.means, self.squares = ([torch.zeros_like(value) for value in self.trained] for _ in range(2))
        step: Callable[[], None] = self._captured().replay if DEVICE == "cuda" else self.step
        for number in range(self.steps):
            step()
            if (number + 1) % self.epoch == 0:
                self.epoch_ended((number + 1) / self.steps)
            if DEVICE == "cuda" and number % 2000 == 0:
                torch.cuda.synchronize()

    def epoch_ended(self, done: float) -> None:
        """May change what the next steps compute with, in place; ``done`` is the share of the steps."""

    def _captured(self) -> torch.cuda.CUDAGraph:
        """The step as a graph; what warming up changed is put back."""
        state = [*self.trained, *self.means, *self.squares, self.at]
        before, stream, graph = [value.detach().clone() for value in state], torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMING_STEPS):
                self.step()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            self.step()
        with torch.no_grad():
            for value, old in zip(state, before, strict=True):
                value.copy_(old)
        return graph

    @torch.no_grad()
    def errors(self) -> Tensor:
        """Percent of the validation split that each net gets wrong."""
        wrong = torch.zeros(self.nets.count, device=DEVICE)
        for inputs, targets in zip(
            self.data.judged_inputs.split(500), self.data.judged_targets.split(500), strict=True
        ):
            wrong += (self.nets.logits(self.used(), inputs).argmax(2) != targets).sum(1)
        return 100 * wrong / len(self.data.judged_targets)


class Rounding(Training):
    """The phase with learned steps, the codes' length in the loss, a pull towards the levels, and numbers held."""

    def __init__(self, nets: Nets, data: Data, settings: Settings, each: Mapping[str, Tensor], epochs: int) -> None:
        super().__init__(nets, data, settings, each, epochs)
        self.largest = (each["levels"] // 2)[:, None]
        self.first = _best_steps(nets, self.largest)
        self.grown = torch.zeros_like(self.first).requires_grad_()
        self.trained = [self.numbers, self.grown]
        self.held, self.kept = torch.zeros_like(nets.fresh, dtype=torch.bool), torch.zeros_like(nets.fresh)
        most, ages = int(self.largest.max()), torch.arange(self.steps) // (self.steps // epochs) / epochs
        self.levels = torch.arange(-most, most + 1, device=DEVICE).float()[None, :, None]
        self.pulls = ((1 - torch.cos(torch.pi * ages)) / 2).to(DEVICE)

    @property
    def sizes(self) -> Tensor:
        """Of the steps (E, factors)."""
        return self.first * (SLOWER * self.grown).exp()

    def scaled(self, sizes: Tensor) -> Tensor:
        """Numbers in steps, within the levels; held ones are their codes."""
        values = self.numbers / sizes[:, self.nets.owner]
        return torch.where(self.held, self.kept, torch.minimum(torch.maximum(values, -self.largest), self.largest))

    @torch.no_grad()
    def epoch_ended(self, done: float) -> None:
        """Hold more numbers of each factor, the nearest to a level first."""
        scaled, share = self.scaled(self.sizes), held_share(done)
        away = (scaled - scaled.round()).abs().masked_fill(self.held, -1)  # those that are held come first
        for part in range(len(self.nets.sizes)):
            own = (self.nets.owner == part).nonzero()[:, 0]
            chosen = away[:, own].argsort(1)[:, : int(share * len(own))]
            self.held.scatter_(1, own[chosen], value=True)
        self.kept.copy_(torch.where(self.held, scaled.round(), self.kept))

    def used(self) -> Tensor:
        """Rounded, the gradient passed straight through."""
        scaled = self.scaled(self.sizes)
        return (scaled + (scaled.round() - scaled).detach()) * self.sizes[:, self.nets.owner]

    def loss(self) -> Tensor:
        """The task's, and both terms of the codes."""
        near = (1 - (self.scaled(self.sizes).unsqueeze(1) - self.levels).abs()).clamp_min(0)
        counts = self.nets.of_factor.sum(0)
        shares = near @ self.nets.of_factor / counts
        kilobytes = (-(shares * (shares + TINY).log2()).sum(1) * counts).sum(1) / 8192
        fixed = self.scaled(self.sizes.detach())
        strain = (fixed - fixed.detach().round()).square().sum(1)
        return super().loss() + self.each["rate"] * kilobytes + self.each["damp"] * self.now(self.pulls) * strain

    @torch.no_grad()
    def bytes(self) -> Tensor:
        """By the entropy of the sizes of each factor's codes, a bit for the sign of all but zeros."""
        codes, most = self.scaled(self.sizes).round().abs(), int(self.largest.max())
        counts = torch.stack([(codes == level).float() @ self.nets.of_factor for level in range(most + 1)], 2)
        shares = counts / counts.sum(2, keepdim=True)
        bits = -(counts * (shares + TINY).log2()).sum((1, 2)) + counts[..., 1:].sum((1, 2))
        return bits / 8


def _column(targets: Tensor, count: int) -> Tensor:
    return targets[None, :, None].expand(count, -1, -1)


def _one_cycle(steps: int) -> tuple[Tensor, Tensor]:
    """Shares of the peak rate and Adam's first decay at every step, as ``torch.optim.lr_scheduler.OneCycleLR``."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], 1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=WARM_UP)
    found = []
    for _ in range(steps):
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]))
        optimizer.step()
        schedule.step()
    rates, momenta = torch.tensor(found).T
    return rates, momenta


def _best_steps(nets: Nets, largest: Tensor) -> Tensor:
    """(E, factors): the first step of each factor, of a grid of 60 the one of least squared error."""
    grid, chosen = torch.linspace(0.05, 1, 60, device=DEVICE)[:, None, None], []
    for values in nets.fresh.split(nets.sizes, 1):
        steps = values.abs().amax(1, keepdim=True).clamp_min(TINY) / largest * grid
        scaled = torch.minimum(torch.maximum(values / steps, -largest), largest)
        errors = (scaled.round() * steps - values).square().sum(2)
        chosen.append(steps[errors.argmin(0), torch.arange(nets.count, device=DEVICE), 0])
    return torch.stack(chosen, 1)


def searched(network: str, data: Data, members: Sequence[Settings], seeds: int) -> Iterator[str]:
    """Train all settings of one run; a line for each."""
    shared, start = members[0], time.perf_counter()
    names = ("distill", "weight_decay", "rate", "damp", "levels", "lr", "round_lr")
    each = {n: torch.tensor([float(m[n]) for m in members for _ in range(seeds)], device=DEVICE) for n in names}
    nets = Nets(network, shared, [seed for _ in members for seed in range(seeds)])
    floats = Training(nets, data, shared, {**each, "rate_now": each["lr"]}, int(shared["epochs"]))
    floats.run()
    nets.fresh = floats.numbers.detach().clone()
    rounded = Rounding(nets, data, shared, {**each, "rate_now": each["round_lr"]}, int(shared["round_epochs"]))
    rounded.run()
    columns = (floats.errors(), rounded.errors(), rounded.bytes())
    for number, member in enumerate(members):
        own, after, length = (column.view(-1, seeds)[number] for column in columns)
        spread = float(after.std()) / math.sqrt(seeds) if seeds > 1 else math.nan
        means = {"float_error": own, "error": after, "bytes": length}
        figures = {"standard_error": spread, **{name: float(values.mean()) for name, values in means.items()}}
        yield json.dumps({**member, **{name: round(value, 3) for name, value in figures.items()}})
    print(f"{len(members)} x {seeds} nets in {time.perf_counter() - start:.0f} s", file=sys.stderr)


def main(network: str, grid: str, seeds: str = "8") -> None:
    """Print a line for every combination, run by run."""
    base, values = DEFAULTS | presets(network)["smallest"], json.loads(grid)
    base.pop("methods")
    asked = [base | dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    runs: dict[tuple[Any, ...], list[Settings]] = {}
    for settings in asked:
        runs.setdefault(tuple(settings[name] for name in SHARED), []).append(settings)
    data = Data.of(network)
    for members in runs.values():
        for line in searched(network, data, members, int(seeds)):
            print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
