"""How near low rank without gradient steps leaves two transformers to the dense ones, and what planning takes.

    EDGECOMPRESS_DATA=... python benchmarks/of_transformers.py [--net smollm2] [--seed 0 1 2] [--scored 0] [--search 12]

``pip install '.[transformers,search]'`` and the packages of docs/samples.md; WikiText-2 in EDGECOMPRESS_DATA. A row is
one draw of calibration inputs, in a process of its own on one thread; rows are kept and not measured twice.

SmolLM2: perplexity on windows of 512 tokens of the test text, evenly spread (``--scored 0``: all), over the dense
model's, where 0.8 and 0.6 of the parameters of the blocks' Linears remain: edgecompress's budget, and beside it SVD-LLM
(Wang et al. 2024, arXiv 2403.07378: whitening by Cholesky factors, the same rank ratio everywhere) on the same inputs.
No layer is refitted. MiniLM: 0.8 of all parameters, planned and refitted; cosine to the dense vectors, rank correlation
of all pairs' similarities, and how often the nearest sentence is the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, cast

import torch
from children import in_child, measure_missing, read_rows, say, used
from rows import Row, put_in_readme, spread
from torch import Tensor, nn
from torch.utils.data import Subset

from edgecompress.calibrating import Calibration, calibration_of
from edgecompress.calibrating.moments import Moments, collect
from edgecompress.calibrating.trials import Trial, all_changed
from edgecompress.decomposing.choosing import refit_nearest
from edgecompress.models import Sample
from edgecompress.models.datasets import in_parts, size, take
from edgecompress.planning import Scope, Survey, plan, survey
from edgecompress.planning.candidates import calibrated_candidates
from edgecompress.planning.judging import searched
from edgecompress.planning.measuring import Trials
from edgecompress.progress import silent
from edgecompress.scoring import score
from edgecompress.selectors import Budget
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates
from edgecompress.selectors.search import Search
from edgecompress.sources import resolve

RESULTS = Path(__file__).with_name("results") / "transformers.jsonl"
BLOCKS, KEEPS = "model.layers.*", (0.8, 0.6)
INPUTS = {"smollm2": 20, "minilm": 1024}
"""That calibrate: windows of 256 tokens, 5,120 in all; sentences."""
ENCODED_AT_ONCE, SENTENCES = 32, 1024
RIDGE = 1e-6
"""Share of the mean second moment that makes a Cholesky factor exist."""


# -- SmolLM2 ---------------------------------------------------------------------------------------------------------


def measured_language_model(setting: Row) -> None:
    """Say the fields of one row as they are known."""
    sample = resolve("smollm2")
    model, fewer = sample.built(), on_windows(sample, setting["scored"])
    calibration = calibration_of(sample, setting["inputs"], setting["seed"])
    seen = survey(model, sample.inputs, Scope(include=(BLOCKS,)))
    dense = -score(model, fewer)
    say(tokens=512 * size(fewer.data("test")), dense=dense)
    work = partial(calibrated_candidates, model, seen.items, calibration, ("svd",), 8, silent)
    layers, took = used(work)
    say(plan=took)
    trials, judge = Trials(model, calibration, seen.total, silent), partial(ratio, model, fewer, dense)
    budgets = {keep: Budget(keep_of_all(seen, layers, keep), "params") for keep in KEEPS}
    chosen = {keep: budget.select(layers, seen.total) for keep, budget in budgets.items()}
    say(ours={str(keep): judge(trials_of(trials, layers, choices)) for keep, choices in chosen.items()})
    say(svd_llm={str(keep): judge(whitened(model, seen, calibration, keep)) for keep in KEEPS})
    if setting["search"]:
        say(**search_of(setting, seen, layers, calibration, trials, judge, chosen[KEEPS[0]]))


def on_windows(sample: Sample, count: int) -> Sample:
    """The sample, of its test windows so many, evenly spread; 0: all."""
    splits = sample.splits
    assert splits is not None

    def few(split: str) -> Any:
        whole: Any = splits(split)
        return Subset(whole, [len(whole) * at // count for at in range(count)]) if count else whole

    return replace(sample, splits=few)


def ratio(model: nn.Module, sample: Sample, dense: float, changes: Sequence[Trial]) -> float:
    """Perplexity with all changes in place over that of the dense model."""
    with all_changed(model, changes):
        return round(-score(model, sample) / dense, 4)


def keep_of_all(seen: Survey, layers: Iterable[LayerCandidates], keep: float) -> float:
    """The fraction of all parameters that leaves ``keep`` of those of the layers."""
    return 1 - (1 - keep) * sum(layer.dense.params for layer in layers) / seen.total.params


def trials_of(trials: Trials, layers: Sequence[LayerCandidates], choices: dict[str, Choice]) -> list[Trial]:
    """What is chosen, as changes of the model."""
    return trials.of(layers, {name: one for name, one in choices.items() if isinstance(one, Candidate)})


def whitened(model: nn.Module, seen: Survey, calibration: Calibration, keep: float) -> list[Trial]:
    """SVD-LLM: every weight truncated at the rank that leaves ``keep`` of its parameters."""
    names = [item.name for item in seen.items]
    moments = collect(model, calibration.inputs, names)
    return [whitened_one(model, name, cast("Moments", moments.pop(name)), keep) for name in names]


def whitened_one(model: nn.Module, name: str, moments: Moments, keep: float) -> Trial:
    """Of one layer: W L truncated, times the inverse of L, with L L^T the second moments of its inputs."""
    weight, second = cast("Tensor", model.get_submodule(name).weight).detach().double(), moments.second[0].double()
    second.diagonal().add_(RIDGE * second.diagonal().mean())
    root = torch.linalg.cholesky(second)
    left, sizes, right = torch.linalg.svd(weight @ root, full_matrices=False)
    rank = int(keep * weight.numel() / sum(weight.shape))
    low = (left[:, :rank] * sizes[:rank]) @ torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    return Trial(name, (low - weight).float()[None], torch.zeros(1, len(weight), dtype=torch.float64))


def search_of(
    setting: Row, seen: Survey, layers: Any, calibration: Calibration, trials: Trials, judge: Any, usual: Any
) -> Row:
    """The ratio at the first of ``KEEPS`` of what a search finds, and what it takes beyond the plan."""
    wanted = Search(keep_of_all(seen, layers, KEEPS[0]), "params", evaluations=setting["search"], seed=setting["seed"])
    work = partial(searched, seen.model, layers, seen.total, wanted, usual, calibration, silent)
    choices, took = used(work)
    return {"searched": judge(trials_of(trials, layers, choices)), "search_took": took}


# -- MiniLM ----------------------------------------------------------------------------------------------------------


def measured_encoder(setting: Row) -> None:
    """Say the fields of one row as they are known."""
    sample = resolve("minilm")
    model, calibration = sample.model(), calibration_of(sample, setting["inputs"], setting["seed"])
    made, took = used(lambda: plan(model, sample.inputs, Budget(0.8, "params"), calibration=calibration))
    assert made.compressed is not None
    assert made.dense is not None
    say(plan=took, params_kept=round(made.compressed.params / made.dense.params, 4))
    (small, _), took = used(lambda: refit_nearest(model, made, calibration))
    say(refit=took)
    test = sample.data("test")
    count = min(setting["scored"] or SENTENCES, size(test))
    inputs, wanted = take(test, torch.arange(count) * size(test) // count)
    with torch.no_grad():
        vectors = torch.cat([small(*part) for part in in_parts(inputs, ENCODED_AT_ONCE)])
    say(sentences=count, **fidelity(vectors, wanted))


def fidelity(vectors: Tensor, wanted: Tensor) -> Row:
    """Of unit vectors (N, D): mean cosine to those that are wanted, Spearman of all pairs, same nearest neighbour."""
    above = torch.triu_indices(len(vectors), len(vectors), 1)
    alike = [side @ side.T for side in (vectors, wanted)]
    ranks = torch.stack([one[above[0], above[1]].argsort().argsort().double() for one in alike])
    nearest = [(one - 2 * torch.eye(len(one))).argmax(1) for one in alike]
    return {
        "cosine": round(float((vectors * wanted).sum(1).mean()), 4),
        "spearman": round(float(torch.corrcoef(ranks)[0, 1]), 4),
        "same_neighbour": round(float((nearest[0] == nearest[1]).double().mean()), 4),
    }


# -- rows and their tables -------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown: SmolLM2's methods over the draws, then MiniLM."""
    language, encoder = ([row for row in rows if row["net"] == net] for net in INPUTS)
    titles = [
        "SmolLM2: perplexity / dense",
        *(f"keep {keep:g}" for keep in KEEPS),
        "draws",
        "test tokens",
        "CPU, memory",
    ]
    lines = [titles, ["---"] * len(titles)]
    for name, field in (("budget", "ours"), ("SVD-LLM, uniform", "svd_llm")):
        lines += _line_of(name, [row for row in language if field in row], field)
    lines += _line_of(
        "search", [{**row, "of": {"0.8": row["searched"]}} for row in language if "searched" in row], "of"
    )
    lines += [[], ["MiniLM, keep 0.8 of all", "cosine", "Spearman", "same neighbour", "sentences", "CPU, memory"]]
    lines += [["---"] * 6, *(_encoder_line(row) for row in encoder if "cosine" in row)]
    return "".join(f"| {' | '.join(line)} |\n" if line else "\n" for line in lines)


def _line_of(name: str, rows: list[Row], field: str) -> list[list[str]]:
    if not rows:
        return []
    cells = [spread([row[field][str(k)] for row in rows]) if str(k) in rows[0][field] else "-" for k in KEEPS]
    took = {"of": "search_took", "ours": "plan"}.get(field)
    return [[name, *cells, str(len(rows)), f"{rows[0]['tokens']:,}", _taken(rows, took) if took else "-"]]


def _taken(rows: list[Row], stage: str) -> str:
    return (
        f"{mean(row[stage]['cpu_s'] for row in rows):.0f} s, {max(row[stage]['peak_mb'] for row in rows) / 1000:.1f} GB"
    )


def _encoder_line(row: Row) -> list[str]:
    figures = [f"{row[field]:.3f}" for field in ("cosine", "spearman", "same_neighbour")]
    both = f"plan {_taken([row], 'plan')}; refit {_taken([row], 'refit')}"
    return [f"draw {row['seed']}", *figures, f"{row['sentences']:,}", both]


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=list(INPUTS), default=list(INPUTS))
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], help="of the calibration draws")
    parser.add_argument("--scored", type=int, default=0, help="windows or sentences; 0: all windows, 1,024 sentences")
    parser.add_argument("--search", type=int, default=12, help="plans that are tried; 0: no search")
    parser.add_argument("--tag", default="this version", help="a name for the state of the code")
    parser.add_argument("--limit", type=int, default=36_000, help="processor seconds of one row")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of rows")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table; README.md for RESULTS")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(options: argparse.Namespace) -> list[Row]:
    """What is to be measured."""
    common = {"tag": options.tag, "scored": options.scored}
    of_language = {"search": options.search}
    return [
        {**common, "net": net, "seed": seed, "inputs": INPUTS[net], **(of_language if net == "smollm2" else {})}
        for net in options.net
        for seed in options.seed
    ]


def main() -> None:
    """Measure what is missing, one process each, and write the table."""
    options = parsed()
    if options.row:
        work = measured_language_model if options.row["net"] == "smollm2" else measured_encoder
        work(options.row)
        return
    if not options.table:
        measure_missing(options.results, settings(options), lambda row: in_child(__file__, row, options.limit))
    print(text := table(read_rows(options.results)))
    if options.results == RESULTS:
        put_in_readme("transformers", text)


if __name__ == "__main__":
    main()
