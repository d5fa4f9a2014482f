"""Search settings of stored nets: many small trainings side by side on one GPU, cross-validated.

    EDGECOMPRESS_DATA=... python benchmarks/search_storage.py lenet5 '{"rank": [8, 9], "rate": [0.02, 0.03]}' [SEEDS]

Every combination of the values given, or each of a list of objects of one value each (others: the preset
``smallest``), is trained as ``compress --method scada_tucker`` trains it, SEEDS (12) times. Seed 0 is scored on the
sample's validation split, the next on the part of the training images before it that is as large, and so on: twelve
seeds are scored on all 60,000 images of MNIST, each by a net that has not seen it, nor has its teacher. The test set is
never read. Dense nets come first: teachers, and for comparison nets trained for as many epochs as the stored ones.

What has the same sizes, epochs and mixup is one run of stacked weights, its step captured as a CUDA graph; settings
that differ in rounding alone share their floats. One line each: the mean error on held-out images as floats and
rounded, its standard error, the mean cross-entropies there, and the bytes by the codes' entropy. On an H100 a step of
96 rounded LeNet-5 takes 9 ms. On a CPU it works and is slow. Of training it shares the schedule of freezing with
the package and nothing else: a second opinion on it, too.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from stacked_nets import BATCH, DEVICE, Dense, Nets, Stored
from torch import Tensor
from torch.nn import functional
from train_samples import SETTINGS

from edgecompress.codecs.rounding import SLOWER
from edgecompress.models.datasets import batches, size
from edgecompress.sources import presets, resolve
from edgecompress.storing import frozen_fraction

SIZES = ("rank", "order", "mix_axes", "epochs", "round_epochs", "mixup")
"""Settings that all nets of one run have in common."""
FLOATS = ("distill", "temperature", "weight_decay", "lr")
"""Settings, beside those, on which a net's floats depend."""
ROUNDING = ("rate", "damp", "levels", "core_levels", "round_lr")
"""Settings that only the phase with rounding looks at."""
FIGURES = ("float_error", "float_loss", "error", "loss", "bytes")
DEFAULTS: dict[str, Any] = {
    "order": 3,
    "mix_axes": False,
    "mixup": 0.0,
    "temperature": 4.0,
    "weight_decay": 0.0,
    "damp": 2e-4,
}
CLIP, SECOND_MOMENT, WARM_UP = 5.0, 0.99, 0.3
PARTS = 12
"""The training and validation images together, in parts of the size of the validation split."""
AT_ONCE = 250
"""Images that are scored at once."""
WARMING_STEPS, TINY = 3, 1e-9

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Data:
    """The train and validation images of a sample, in one, on the device."""

    inputs: Tensor
    targets: Tensor

    @classmethod
    def of(cls, network: str) -> Data:
        """Read both splits."""
        found = []
        for split in ("train", "validation"):
            dataset = resolve(network).data(split)
            found += [(inputs[0], targets) for inputs, targets in batches(dataset, 1000, torch.arange(size(dataset)))]
        inputs, targets = zip(*found, strict=True)
        return cls(torch.cat(inputs).to(DEVICE), torch.cat(targets).to(DEVICE))

    @property
    def held_out(self) -> int:
        """Images that a net is scored on."""
        return len(self.inputs) // PARTS


@dataclass(frozen=True)
class Teacher:
    """Dense nets, one for each seed, and their numbers."""

    nets: Nets
    numbers: Tensor


class Training:
    """One phase, of floats or with rounding, of all nets; ``each`` holds a column of every setting that differs."""

    def __init__(
        self,
        nets: Any,
        data: Data,
        each: Mapping[str, Tensor],
        epochs: int,
        mixup: float,
        teacher: Teacher | None,
    ) -> None:
        self.nets, self.data, self.each, self.epochs, self.teacher = nets, data, each, epochs, teacher
        self.numbers, count = nets.fresh.clone().requires_grad_(), len(data.inputs) - data.held_out
        self.epoch = count // BATCH
        self.steps = epochs * self.epoch
        self.at, generator = torch.zeros(1, dtype=torch.long, device=DEVICE), torch.Generator().manual_seed(epochs)
        orders = [torch.randperm(count, generator=generator) for _ in range(epochs)]
        rows = torch.cat([order[: len(order) // BATCH * BATCH] for order in orders]).view(-1, BATCH)
        places = [torch.randperm(BATCH, generator=generator) for _ in rows]
        shares = torch.distributions.Beta(mixup, mixup).sample((len(rows),)) if mixup else torch.ones(len(rows))
        columns = (rows, torch.stack(places), shares, *_one_cycle(self.steps))
        self.rows, self.places, self.shares, self.rates, self.momenta = (column.to(DEVICE) for column in columns)
        parts = (PARTS - 1 - torch.arange(nets.seeds)) % PARTS
        self.starts = (parts * data.held_out)[:, None].to(DEVICE)
        self.mixed = mixup > 0
        self.trained: list[Tensor] = [self.numbers]
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    def now(self, column: Tensor) -> Tensor:
        """The entry of a column for this step."""
        return column.index_select(0, self.at)[0]

    def used(self) -> Tensor:
        """The numbers that the nets compute with."""
        numbers: Tensor = self.numbers
        return numbers

    def loss(self) -> Tensor:
        """Of every net: distillation and cross-entropy, mixed."""
        rows = self.now(self.rows)
        own = rows + self.data.held_out * (rows >= self.starts)
        inputs, targets = self.data.inputs[own], self.data.targets[own][:, None]
        right, other = targets, targets
        if self.mixed:
            places, share = self.now(self.places), self.now(self.shares)
            inputs, other = share * inputs + (1 - share) * inputs[:, places], targets[:, :, places]
        outputs = self.nets.logits(self.used(), inputs)
        chances = outputs.log_softmax(3)
        entropy = -_chosen(chances, right)
        if self.mixed:
            entropy = share * entropy - (1 - share) * _chosen(chances, other)
        if self.teacher is None:
            return entropy.flatten()
        distilled = self._distilled(outputs, inputs).flatten()
        return self.each["distill"] * distilled + (1 - self.each["distill"]) * entropy.flatten()

    def _distilled(self, outputs: Tensor, inputs: Tensor) -> Tensor:
        assert self.teacher is not None
        heat = self.each["temperature"].view(*outputs.shape[:2], 1, 1)
        with torch.no_grad():
            taught = (self.teacher.nets.logits(self.teacher.numbers, inputs) / heat).log_softmax(3)
        distance = functional.kl_div((outputs / heat).log_softmax(3), taught, reduction="none", log_target=True)
        return distance.sum(3).mean(2) * heat[:, :, 0, 0] ** 2

    def step(self) -> None:
        """One update, with the gradient of each net clipped on its own."""
        gradients = torch.autograd.grad(self.loss().sum(), self.trained)
        with torch.no_grad():
            norms = torch.stack([g.square().sum(1) for g in gradients]).sum(0).sqrt()
            clip = (CLIP / (norms + 1e-6)).clamp(max=1)[:, None]
            rate, momentum = (self.each["rate_now"] * self.now(self.rates))[:, None], self.now(self.momenta)
            for value, gradient, mean, square in zip(self.trained, gradients, self.means, self.squares, strict=True):
                clipped = clip * gradient + self.each["weight_decay"][:, None] * value
                self.update(value, clipped, rate, momentum, (mean, square))
            self.at.add_(1)

    def update(
        self, value: Tensor, gradient: Tensor, rate: Tensor, momentum: Tensor, moments: tuple[Tensor, Tensor]
    ) -> None:
        """Adam."""
        (mean, square), number = moments, self.at + 1
        mean.copy_(momentum * mean + (1 - momentum) * gradient)
        square.copy_(SECOND_MOMENT * square + (1 - SECOND_MOMENT) * gradient.square())
        root = (square / (1 - SECOND_MOMENT**number)).sqrt() + 1e-8
        value.sub_(rate * mean / (1 - momentum**number) / root)

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
    def scored(self) -> tuple[Tensor, Tensor]:
        """(seeds, members) each: percent of the held-out images that a net gets wrong, and its cross-entropy there."""
        wrong, entropy = (torch.zeros(self.nets.seeds, self.nets.members, device=DEVICE) for _ in range(2))
        places = self.starts + torch.arange(self.data.held_out, device=DEVICE)
        for own in places.split(AT_ONCE, 1):
            outputs, targets = self.nets.logits(self.used(), self.data.inputs[own]), self.data.targets[own][:, None]
            wrong += (outputs.argmax(3) != targets).sum(2)
            entropy -= _chosen(outputs.log_softmax(3), targets) * own.shape[1]
        return 100 * wrong / self.data.held_out, entropy / self.data.held_out


def _chosen(chances: Tensor, targets: Tensor) -> Tensor:
    """(seeds, members): the mean over N of the entries of ``chances`` at ``targets`` (seeds, 1, N)."""
    return chances.gather(3, targets[..., None].expand(-1, chances.shape[1], -1, 1)).mean((2, 3))


class Descent(Training):
    """Of dense nets: SGD with Nesterov's momentum."""

    def update(
        self, value: Tensor, gradient: Tensor, rate: Tensor, momentum: Tensor, moments: tuple[Tensor, Tensor]
    ) -> None:
        """As ``torch.optim.SGD``."""
        moments[0].copy_(momentum * moments[0] + gradient)
        value.sub_(rate * (gradient + momentum * moments[0]))


class Rounding(Training):
    """The phase with learned steps, the codes' length in the loss, a pull towards the levels, and freezing."""

    nets: Stored

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        nets, each = self.nets, self.each
        matrices = (each["levels"] // 2)[:, None].expand(-1, len(nets.sizes) - 1)
        self.largest = torch.cat([(each["core_levels"] // 2)[:, None], matrices], 1)
        self.bound = self.of_numbers(self.largest.float())
        self.first = _best_steps(nets, self.largest)
        self.grown = torch.zeros_like(self.first).requires_grad_()
        self.trained = [self.numbers, self.grown]
        self.frozen, self.frozen_codes = torch.zeros_like(nets.fresh, dtype=torch.bool), torch.zeros_like(nets.fresh)
        most, ages = int(self.largest.max()), torch.arange(self.steps) // self.epoch / self.epochs
        self.levels = torch.arange(-most, most + 1, device=DEVICE).float()[None, :, None]
        self.pulls = ((1 - torch.cos(torch.pi * ages)) / 2).to(DEVICE)

    def of_numbers(self, column: Tensor) -> Tensor:
        """(nets, factors) to (nets, numbers); a product, as the gradient of indexing is slow."""
        return column @ self.nets.of_factor.T

    @property
    def sizes(self) -> Tensor:
        """Of the steps (nets, factors)."""
        return self.first * (SLOWER * self.grown).exp()

    def scaled(self, sizes: Tensor) -> Tensor:
        """Numbers in steps, within the levels; frozen ones are their codes."""
        values = self.numbers / self.of_numbers(sizes)
        return torch.where(
            self.frozen, self.frozen_codes, torch.minimum(torch.maximum(values, -self.bound), self.bound)
        )

    @torch.no_grad()
    def epoch_ended(self, done: float) -> None:
        """Hold more numbers of each factor, the nearest to a level first."""
        scaled, share = self.scaled(self.sizes), frozen_fraction(done)
        away = (scaled - scaled.round()).abs().masked_fill(self.frozen, -1)  # frozen ones come first
        factors = away.split(self.nets.sizes, 1)
        self.frozen |= torch.cat([of.argsort(1).argsort(1) < int(share * of.shape[1]) for of in factors], 1)
        self.frozen_codes.copy_(torch.where(self.frozen, scaled.round(), self.frozen_codes))

    def used(self) -> Tensor:
        """Rounded, the gradient passed straight through."""
        scaled = self.scaled(self.sizes)
        return (scaled + (scaled.round() - scaled).detach()) * self.of_numbers(self.sizes)

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
        """(seeds, members) by the entropy of the sizes of each factor's codes, a bit for the sign of all but zeros."""
        codes, most = self.scaled(self.sizes).round().abs(), int(self.largest.max())
        counts = torch.stack([(codes == level).float() @ self.nets.of_factor for level in range(most + 1)], 2)
        shares = counts / counts.sum(2, keepdim=True)
        bits = -(counts * (shares + TINY).log2()).sum((1, 2)) + counts[..., 1:].sum((1, 2))
        return (bits / 8).view(self.nets.seeds, -1)


def _one_cycle(steps: int) -> tuple[Tensor, Tensor]:
    """Shares of the peak rate and the momentum at every step, as ``torch.optim.lr_scheduler.OneCycleLR``."""
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


def _best_steps(nets: Stored, largest: Tensor) -> Tensor:
    """(nets, factors): the first step of each factor, of a grid of 60 the one of least squared error."""
    grid, chosen = torch.linspace(0.05, 1, 60, device=DEVICE)[:, None, None], []
    for values, most in zip(nets.fresh.split(nets.sizes, 1), largest.split(1, 1), strict=True):
        steps = values.abs().amax(1, keepdim=True).clamp_min(TINY) / most * grid
        scaled = torch.minimum(torch.maximum(values / steps, -most), most)
        errors = (scaled.round() * steps - values).square().sum(2)
        chosen.append(steps[errors.argmin(0), torch.arange(nets.count, device=DEVICE), 0])
    return torch.stack(chosen, 1)


def dense(network: str, data: Data, seeds: int, epochs: int, mixup: float) -> tuple[Teacher, str]:
    """Train dense nets as ``train_samples.py`` does, and a line on them."""
    settings, start = SETTINGS[network], time.perf_counter()
    nets = Dense(network, seeds)
    each = {
        name: torch.full((seeds,), value, device=DEVICE)
        for name, value in {"rate_now": settings.lr, "weight_decay": settings.weight_decay}.items()
    }
    training = Descent(nets, data, each, epochs, mixup, None)
    training.run()
    errors, entropies = training.scored()
    figures = {"error": float(errors.mean()), "standard_error": _spread(errors[:, 0]), "loss": float(entropies.mean())}
    line = {"dense": epochs, "mixup": mixup, **_short(figures), "seconds": round(time.perf_counter() - start)}
    return Teacher(nets, training.numbers.detach()), json.dumps(line)


def _spread(errors: Tensor) -> float:
    return float(errors.std()) / math.sqrt(len(errors)) if len(errors) > 1 else math.nan


def _short(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in figures.items()}


def searched(network: str, data: Data, members: Sequence[Settings], seeds: int, teacher: Teacher) -> Iterator[str]:
    """Train all settings of one run; a line for each."""
    shared, start = members[0], time.perf_counter()
    kinds = list(dict.fromkeys(tuple(float(member[name]) for name in FLOATS) for member in members))
    of_member = [kinds.index(tuple(float(member[name]) for name in FLOATS)) for member in members]
    each = {name: _column([kind[at] for kind in kinds], seeds) for at, name in enumerate(FLOATS)}
    nets, mixup = Stored(network, shared, seeds, len(kinds)), float(shared["mixup"])
    floats = Training(nets, data, {**each, "rate_now": each["lr"]}, int(shared["epochs"]), mixup, teacher)
    floats.run()
    before = [column[:, of_member] for column in floats.scored()]
    nets = Stored(network, shared, seeds, len(members))
    nets.fresh = floats.numbers.detach().unflatten(0, (seeds, -1))[:, of_member].flatten(0, 1)
    each = {name: _column([float(member[name]) for member in members], seeds) for name in (*FLOATS, *ROUNDING)}
    each["rate_now"] = each["round_lr"]
    rounded = Rounding(nets, data, each, int(shared["round_epochs"]), mixup, teacher)
    rounded.run()
    columns = dict(zip(FIGURES, (*before, *rounded.scored(), rounded.bytes()), strict=True))
    for number, member in enumerate(members):
        figures = {name: float(column[:, number].mean()) for name, column in columns.items()}
        figures["standard_error"] = _spread(columns["error"][:, number])
        yield json.dumps(_short(figures) | {name: member[name] for name in (*SIZES, *FLOATS, *ROUNDING)})
    print(f"{len(members)} x {seeds} nets in {time.perf_counter() - start:.0f} s", file=sys.stderr)


def _column(values: Sequence[float], seeds: int) -> Tensor:
    return torch.tensor(values, device=DEVICE).repeat(seeds)


def main(network: str, grid: str, seeds: str = "12") -> None:
    """Print a line for every combination, run by run."""
    base, values = DEFAULTS | presets(network)["smallest"], json.loads(grid)
    base.pop("method")
    if isinstance(values, dict):
        values = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    requested = [base | changed for changed in values]
    runs: dict[tuple[Any, ...], list[Settings]] = {}
    for settings in requested:
        whole = {"core_levels": settings["levels"], **settings}
        runs.setdefault(tuple(whole[name] for name in SIZES), []).append(whole)
    data, count = Data.of(network), int(seeds)
    teacher, line = dense(network, data, count, SETTINGS[network].epochs, 0.0)
    print(line, flush=True)
    lengths = {(int(m[0]["epochs"]) + int(m[0]["round_epochs"]), float(m[0]["mixup"])) for m in runs.values()}
    for epochs, mixup in sorted(lengths):
        print(dense(network, data, count, epochs, mixup)[1], flush=True)
    for members in runs.values():
        for line in searched(network, data, members, count, teacher):
            print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
