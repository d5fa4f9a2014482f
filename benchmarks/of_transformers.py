"""How near low rank without gradient steps leaves two transformers to the dense ones, and what planning takes.

    EDGECOMPRESS_DATA=... python benchmarks/of_transformers.py [--net smollm2] [--seed 0 1 2] [--scored 0] [--search 12]

``pip install '.[transformers,search]'`` and the packages of docs/samples.md; WikiText-2 in EDGECOMPRESS_DATA. A row is
one method on one draw of calibration inputs, in a process of its own on one thread; rows are kept and not measured
twice.

SmolLM2: perplexity on windows of 512 tokens of the test text, evenly spread (``--scored 0``: all), over the dense
model's, where 0.8 and 0.6 of the parameters of the blocks' Linears remain: edgecompress's budget, its search, and
SVD-LLM (Wang et al. 2024, arXiv 2403.07378: whitening by Cholesky factors, the same rank ratio everywhere) on the same
inputs. No layer is refitted. Rows hold what each window loses, so that ratios are paired. MiniLM: 0.8 of all
parameters, without and with a limit of the MACs, planned and refitted; cosine to the dense vectors, rank correlation of
all pairs' similarities, how often the nearest sentence is the same, and how fast the file is beside the dense one.

``--files FOLDER``, which keeps them: SmolLM2 as files with a KV cache (``export --kv-cache``), dense and with 0.8 of
the blocks' Linears, refitted; both in float32, with ONNX Runtime's dynamic int8, and with weights in 4 and 8 bits
(MatMulNBits). Perplexity goes through the file; times are of a prompt of 128 tokens, and of one token after 128, in
turns with the dense file in float32.

``--tuned FOLDER``, which keeps the refitted model and the checkpoint: SmolLM2 with 0.8 of the blocks' Linears before
and after its factors were trained for a short time (``--epochs`` of ``--train-items`` windows of 256 tokens of the text
that calibrates), the best epoch on ``VALIDATED`` windows of the validation split. The row goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import cast

import torch
from children import in_child, measure_missing, read_rows, say, used
from rows import Row, put_in_readme, spread
from torch import Tensor, nn

from edgecompress.artifacts import golden_path
from edgecompress.calibrating import Calibration, calibration_of
from edgecompress.calibrating.moments import Moments, collect
from edgecompress.calibrating.trials import Trial, all_changed
from edgecompress.costs import cost
from edgecompress.decomposing.choosing import refit_nearest
from edgecompress.decomposing.refitting import refit
from edgecompress.devices import device_named
from edgecompress.exporting import export
from edgecompress.exporting.score_checks import predict_with_file
from edgecompress.finetuning import finetune
from edgecompress.models import Sample
from edgecompress.models.datasets import Inputs, in_parts, size, take
from edgecompress.models.kinds import token_sums
from edgecompress.planning import Scope, Survey, plan, survey
from edgecompress.planning.candidates import calibrated_candidates
from edgecompress.planning.judging import searched
from edgecompress.planning.measuring import Trials
from edgecompress.planning.pooling import pooled_candidates
from edgecompress.plans import CompressionPlan
from edgecompress.profiling import compare
from edgecompress.profiling.comparisons import Comparison
from edgecompress.progress import silent
from edgecompress.running.options import tuning_defaults
from edgecompress.selectors import Budget
from edgecompress.selectors.base import Choice, LayerCandidates, replaced
from edgecompress.selectors.bolaco import Bolaco
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.selectors.search import Search
from edgecompress.settings import ExportOptions, FineTuning
from edgecompress.sources import resolve
from edgecompress.sources.compressed_folder import PLAN_FILE, rebuilt, save_compressed
from edgecompress.targets import target_named

RESULTS = Path(__file__).with_name("results") / "transformers.jsonl"
BLOCKS, KEEPS = "model.layers.*", (0.8, 0.6)
WINDOW = 512
REFIT_INPUTS = 32
"""Windows that SmolLM2's file is refitted to."""
INPUTS = {"smollm2": 64, "minilm": 1024}
"""That calibrate: windows of 256 tokens, 16,384 in all; sentences."""
Judged = Callable[[Sequence[Trial]], list[float]]
ENCODED_AT_ONCE, SENTENCES = 32, 1024
LENGTH = 128
"""Tokens of an input whose latency is measured."""
TIMED = (("prompt", LENGTH, 0), ("token", 1, LENGTH))
"""Of files with a KV cache: name, new tokens, tokens before them."""
PRECISIONS = ("fp32", "int8 dynamic", "8 bits", "4 bits")
EFFORT = {"runs": 20, "seconds": 2.0}
TUNED = {"batch_size": 4, "bfloat16": True, "lr": 3e-4}
"""Chosen on the validation split."""
VALIDATED = 8
"""Windows of the validation split that epochs are chosen by."""
RIDGE = 1e-6
"""Share of the mean second moment that makes a Cholesky factor exist."""


# -- SmolLM2 ---------------------------------------------------------------------------------------------------------


def measured_language_model(setting: Row) -> None:
    """Say the fields of one row as they are known: of every window the negative logarithms of its tokens, summed."""
    sample = resolve("smollm2")
    model, scored = sample.built(), windows_of(sample, setting["scored"])
    judge = partial(lost, model, scored)
    if setting["method"] == "dense":
        say(lost={"1.0": judge(())})
        return
    calibration = calibration_of(sample, setting["inputs"], setting["seed"])
    seen = survey(model, sample.inputs, Scope(include=(BLOCKS,)))
    OF_METHOD[setting["method"]](setting, seen, calibration, judge)


def windows_of(sample: Sample, count: int) -> list[tuple[Inputs, Tensor]]:
    """So many test windows, evenly spread, each with its targets; 0: all."""
    test = sample.data("test")
    wanted = range(size(test)) if not count else [size(test) * at // count for at in range(count)]
    return [take(test, torch.tensor([at])) for at in wanted]


def lost(model: nn.Module, scored: Sequence[tuple[Inputs, Tensor]], changes: Sequence[Trial]) -> list[float]:
    """The negative logarithms of the probabilities of each window's tokens, summed, with all changes in place."""
    with torch.no_grad(), all_changed(model, changes):
        return [round(float(token_sums(model(*inputs), targets)[0, 0]), 3) for inputs, targets in scored]


def budget(_setting: Row, seen: Survey, calibration: Calibration, judge: Judged) -> None:
    """What edgecompress chooses without trying any plan."""
    layers = candidates(seen, calibration)
    trials, ours = Trials(seen.model, calibration, seen.total, silent), dict[str, list[float]]()
    for keep in KEEPS:
        choices = Budget(keep_of_all(seen, layers, keep), "params").select(layers, seen.total)
        ours[str(keep)] = judge(trials_of(trials, layers, choices))
        say(lost=ours)


def search(setting: Row, seen: Survey, calibration: Calibration, judge: Judged) -> None:
    """The best of some plans around it."""
    tried(setting, Search, seen, candidates(seen, calibration), calibration, judge)


def bolaco(setting: Row, seen: Survey, calibration: Calibration, judge: Judged) -> None:
    """The paper's search, on layers cut as the paper does."""
    layers, took = used(partial(pooled_candidates, seen.model, seen.items, calibration, 8, silent))
    say(plan=took)
    tried(setting, Bolaco, seen, layers, calibration, judge)


def candidates(seen: Survey, calibration: Calibration) -> list[LayerCandidates]:
    """Of all layers; says what they took."""
    layers, took = used(partial(calibrated_candidates, seen.model, seen.items, calibration, ("svd",), 8, silent))
    say(plan=took)
    return layers


def tried(
    setting: Row,
    kind: type[Search],
    seen: Survey,
    layers: Sequence[LayerCandidates],
    calibration: Calibration,
    judge: Judged,
) -> None:
    """Search at the first of ``KEEPS``."""
    keep = keep_of_all(seen, layers, KEEPS[0])
    by = kind(keep, "params", evaluations=setting["search"], seed=setting["seed"])
    usual = Budget(keep, "params").select(layers, seen.total)
    choices, took = used(partial(searched, seen.model, layers, seen.total, by, usual, calibration, silent))
    trials = Trials(seen.model, calibration, seen.total, silent)
    say(search_took=took)
    say(lost={str(KEEPS[0]): judge(trials_of(trials, layers, choices))})


def svd_llm(setting: Row, seen: Survey, calibration: Calibration, judge: Judged) -> None:
    """SVD-LLM at one ratio everywhere."""
    del setting
    theirs = dict[str, list[float]]()
    for keep, changes in whitened(seen, calibration).items():
        theirs[str(keep)] = judge(changes)
        say(lost=theirs)


def keep_of_all(seen: Survey, layers: Iterable[LayerCandidates], keep: float) -> float:
    """The fraction of all parameters that leaves ``keep`` of those of the layers."""
    return 1 - (1 - keep) * sum(layer.dense.params for layer in layers) / seen.total.params


def trials_of(trials: Trials, layers: Sequence[LayerCandidates], choices: dict[str, Choice]) -> list[Trial]:
    """What is chosen, as changes of the model."""
    return trials.of(layers, replaced(choices))


def whitened(seen: Survey, calibration: Calibration) -> dict[float, list[Trial]]:
    """SVD-LLM: every weight truncated at the ranks that leave each of ``KEEPS`` of its parameters."""
    names = [item.name for item in seen.items]
    moments = collect(seen.model, calibration.inputs, names)
    of_layers = [whitened_one(seen.model, name, cast("Moments", moments.pop(name)), KEEPS) for name in names]
    return dict(zip(KEEPS, map(list, zip(*of_layers, strict=True)), strict=True))


def whitened_one(model: nn.Module, name: str, moments: Moments, keeps: Sequence[float]) -> list[Trial]:
    """Of one layer: W L truncated, times the inverse of L, with L L^T the second moments of its inputs."""
    weight, second = cast("Tensor", model.get_submodule(name).weight).detach().double(), moments.second[0].double()
    second.diagonal().add_(RIDGE * second.diagonal().mean())
    root = torch.linalg.cholesky(second)
    left, sizes, right = torch.linalg.svd(weight @ root, full_matrices=False)
    across = torch.linalg.solve_triangular(root, right, upper=False, left=False)
    found = list[Trial]()
    for keep in keeps:
        rank = int(keep * weight.numel() / sum(weight.shape))
        change = (left[:, :rank] * sizes[:rank]) @ across[:rank] - weight
        found.append(Trial(name, change.float()[None], torch.zeros(1, len(weight), dtype=torch.float64)))
    return found


LINES = (
    ("budget", "budget", "lost", "plan"),
    ("SVD-LLM, uniform", "svd_llm", "lost", "-"),
    ("search of {search} plans, beyond the budget", "search", "lost", "search_took"),
    ("Bolaco's, {search} plans", "bolaco", "lost", "search_took"),
)
"""Of the table: name, method and field of its rows, and what of them took processor time."""

OF_METHOD = {"budget": budget, "svd_llm": svd_llm, "search": search, "bolaco": bolaco}


# -- SmolLM2's factors, trained --------------------------------------------------------------------------------------


def measured_tuning(setting: Row, folder: Path) -> None:
    """Say the fields of one row as they are known: what each window loses before and after."""
    sample, keep = resolve("smollm2"), str(KEEPS[0])
    start, scored = folder / "start", windows_of(sample, setting["scored"])
    if not (start / PLAN_FILE).exists():
        small, made = refitted(sample, setting)
        save_compressed(start, small, made, sample)
    begun = rebuilt(sample, start)
    small = begun.build()
    say(before={keep: lost(small, scored, ())})
    chosen = {name: setting[name] for name in ("epochs", "train_items", "distill", *TUNED)}
    tuning = FineTuning(**{**tuning_defaults(sample), **chosen})
    work = partial(finetune, small, sample.scored_on(VALIDATED), tuning, teacher=sample.built(), plan=begun.plan)
    done, took = used(partial(work, checkpoint=folder / "checkpoint.pt", key=json.dumps(setting)))
    history = [[epoch.epoch, round(epoch.loss, 4), round(epoch.score, 3)] for epoch in done.history]
    say(tuning=took, tokens=setting["epochs"] * setting["train_items"] * 256, best_epoch=done.best_epoch)
    say(history=history, lost={keep: lost(done.model, scored, ())})


# -- SmolLM2's files -------------------------------------------------------------------------------------------------


def measured_files(setting: Row, folder: Path) -> None:
    """Say the fields of one row as they are known."""
    sample, role, precision = resolve("smollm2"), setting["role"], setting["precision"]
    dense = made_file(sample, folder, "dense", setting)
    file = in_precision(made_file(sample, folder, role, setting), precision)
    say(megabytes=round(file.stat().st_size / 1e6, 1))
    if (role, precision) != ("dense", "fp32"):
        for name, length, past in TIMED:
            found = compare(file, dense, device_named("local"), threads=1, length=length, past=past, **EFFORT)
            assert isinstance(found, Comparison)
            say(**{name: figures_of(found)})
    target = target_named("onnx")
    predict = predict_with_file(file, target, target.signature(file)[0], threads=1)
    scored = windows_of(sample, setting["scored"])
    say(lost=[round(float(token_sums(predict(*inputs), wanted)[0, 0]), 3) for inputs, wanted in scored])


def made_file(sample: Sample, folder: Path, role: str, setting: Row) -> Path:
    """``folder/ROLE.onnx``, proved token by token; made where it is not there."""
    file = folder / f"{role}.onnx"
    if not file.exists():
        model = sample.built() if role == "dense" else refitted(sample, setting)[0]
        export(model, replace(sample, splits=None), folder, stem=role, options=ExportOptions(kv_cache=True))
    return file


def refitted(sample: Sample, setting: Row) -> tuple[nn.Module, CompressionPlan]:
    """The model with the first of ``KEEPS`` of the blocks' Linears, and its plan."""
    model, calibration = sample.built(), calibration_of(sample, setting["inputs"], setting["seed"])
    seen = survey(model, sample.inputs, Scope(include=(BLOCKS,)))
    share = sum(cast("Tensor", item.layer.weight).numel() for item in seen.items) / seen.total.params
    by = Ceilings(keep=1 - (1 - KEEPS[0]) * share, of="params")
    made = plan(model, sample.inputs, by, scope=Scope(include=(BLOCKS,)), calibration=calibration)
    return refit(model, made, calibration_of(sample, setting["refit_inputs"], setting["seed"])), made


def in_precision(file: Path, precision: str) -> Path:
    """The file beside ``file`` in fewer bits, made where it is not there, with its golden pair."""
    if precision == "fp32":
        return file
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    made = file.with_name(f"{file.stem}.{precision}.onnx")
    if not made.exists():
        shutil.copyfile(golden_path(file), golden_path(made))
        if precision == "int8 dynamic":
            quantize_dynamic(file, made, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
        else:
            bits = int(precision.split(maxsplit=1)[0])
            whole, how = onnx.load_model(file), {"bits": bits, "block_size": 32, "is_symmetric": True}
            few = MatMulNBitsQuantizer(whole, **how, accuracy_level=4)
            few.process()
            few.model.save_model_to_file(str(made))
    return made


def figures_of(found: Comparison) -> Row:
    """Times of both and the ratios, with their intervals."""
    ratios = {"wall": found.wall, "cpu": found.cpu}
    times = (("ms", found.candidate_latency), ("dense_ms", found.baseline_latency))
    return {
        **{name: round(latency.statistics.wall.p50, 3) for name, latency in times},
        **{name: [round(of.value, 3), round(of.low, 3), round(of.high, 3)] for name, of in ratios.items() if of},
        "unstable": list(found.unstable),
        "processor": found.device.processor,
    }


# -- MiniLM ----------------------------------------------------------------------------------------------------------


def measured_encoder(setting: Row) -> None:
    """Say the fields of one row as they are known."""
    sample = resolve("minilm")
    model, calibration = sample.built(), calibration_of(sample, setting["inputs"], setting["seed"])
    most = None if setting["macs"] is None else setting["macs"] * cost(model, sample.inputs).macs
    by = Ceilings(keep=0.8, of="params", max_macs=most)
    made, took = used(lambda: plan(model, sample.inputs, by, calibration=calibration))
    assert made.compressed is not None
    assert made.dense is not None
    kept = {of: round(getattr(made.compressed, of) / getattr(made.dense, of), 4) for of in ("params", "macs")}
    say(plan=took, params_kept=kept["params"], macs_kept=kept["macs"])
    (small, _), took = used(lambda: refit_nearest(model, made, calibration))
    say(refit=took)
    test = sample.data("test")
    count = min(setting["scored"] or SENTENCES, size(test))
    inputs, wanted = take(test, torch.arange(count) * size(test) // count)
    with torch.no_grad():
        vectors = torch.cat([small(*part) for part in in_parts(inputs, ENCODED_AT_ONCE)])
    say(sentences=count, **fidelity(vectors, wanted))
    say(**speed(sample, small, model))


def speed(sample: Sample, small: nn.Module, dense: nn.Module) -> Row:
    """How many times as fast the exported file is in ONNX Runtime, one thread, in turns; with its interval."""
    sample = replace(sample, splits=None)
    with TemporaryDirectory() as folder:
        ours, theirs = (
            export(model, sample, Path(folder), stem=stem).path for model, stem in ((small, "small"), (dense, "dense"))
        )
        found = compare(ours, theirs, device_named("local"), threads=1, length=LENGTH, runs=10, seconds=0.5)
    assert isinstance(found, Comparison)
    of_clocks = {"speed": found.wall, "speed_cpu": found.cpu}
    figures = {name: [round(of.value, 3), round(of.low, 3), round(of.high, 3)] for name, of in of_clocks.items() if of}
    return {**figures, "unstable": list(found.unstable)}


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
    titles = ["SmolLM2: perplexity / dense", *(f"keep {keep:g}" for keep in KEEPS)]
    titles += ["draws", "test tokens", "standard error over windows", "CPU, memory"]
    lines = [titles, ["---"] * len(titles)]
    for dense in (row for row in language if row.get("method") == "dense"):
        beside = [row for row in language if row["scored"] == dense["scored"]]
        for name, method, field, stage in LINES:
            lines += _line_of(
                name, [row for row in beside if row.get("method") == method and field in row], field, dense, stage
            )
        lines += _tuned_lines([row for row in beside if row.get("method") == "tuned" and "lost" in row], dense)
    titles = ["MiniLM, 0.8 of all parameters: MACs kept", "cosine", "Spearman", "same neighbour", "sentences"]
    titles += ["times as fast", "by CPU time", "CPU, memory"]
    lines += [[], titles, ["---"] * len(titles), *(_encoder_line(row) for row in encoder if "cosine" in row)]
    files = [row for row in language if row.get("method") == "file" and "lost" in row]
    if files:
        titles = ["SmolLM2's file with a KV cache", "MB", "perplexity / dense", "test tokens"]
        titles += ["prompt of 128 tokens", "by CPU time", "one token after 128", "by CPU time"]
        lines += [[], titles, ["---"] * len(titles), *(_file_line(row, files) for row in files)]
    return "".join(f"| {' | '.join(line)} |\n" if line else "\n" for line in lines)


def ratio(ours: Sequence[float], dense: Sequence[float]) -> tuple[float, float]:
    """The perplexity by the dense one, and the standard error of it that the choice of windows leaves."""
    apart = [(one - other) / (WINDOW - 1) for one, other in zip(ours, dense, strict=True)]
    found = math.exp(mean(apart))
    return found, found * stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan


def _line_of(name: str, rows: list[Row], field: str, dense: Row, stage: str) -> list[list[str]]:
    if not rows:
        return []
    of_keeps = [
        [ratio(row[field][str(k)], dense["lost"]["1.0"]) for row in rows if str(k) in row[field]] for k in KEEPS
    ]
    cells = [spread([value for value, _ in found]) if found else "-" for found in of_keeps]
    errors = " / ".join(f"{max(error for _, error in found):.2f}" for found in of_keeps if found)
    tokens = f"{WINDOW * len(dense['lost']['1.0']):,}"
    return [
        [
            name.format(**rows[0]),
            *cells,
            str(len(rows)),
            tokens,
            errors,
            _taken(rows, stage) if stage in rows[0] else "-",
        ]
    ]


def _tuned_lines(rows: list[Row], dense: Row) -> list[list[str]]:
    """Before, once, and after each training."""
    name = "the same, factors trained on {tokens:,} tokens, {distill:.0%} of the loss by distillation"
    lines = _line_of("budget, refitted to {refit_inputs} windows", rows[:1], "before", dense, "-")
    return [*lines, *(line for row in rows for line in _line_of(name, [row], "lost", dense, "tuning"))]


def _taken(rows: list[Row], stage: str) -> str:
    return (
        f"{mean(row[stage]['cpu_s'] for row in rows):.0f} s, {max(row[stage]['peak_mb'] for row in rows) / 1000:.1f} GB"
    )


def _encoder_line(row: Row) -> list[str]:
    figures = [f"{row[field]:.3f}" for field in ("cosine", "spearman", "same_neighbour")]
    both = f"plan {_taken([row], 'plan')}; refit {_taken([row], 'refit')}"
    times = [_times(row[field]) if field in row else "-" for field in ("speed", "speed_cpu")]
    return [f"{row['macs_kept']:.2f}, draw {row['seed']}", *figures, f"{row['sentences']:,}", *times, both]


def _file_line(row: Row, files: list[Row]) -> list[str]:
    dense = next(each for each in files if (each["role"], each["precision"]) == ("dense", "fp32"))
    value, error = ratio(row["lost"], dense["lost"])
    of_dense = f"{math.exp(sum(row['lost']) / (WINDOW - 1) / len(row['lost'])):.1f} (dense)"
    tokens = f"{WINDOW * len(row['lost']):,}"
    times = [_times(row[name][clock]) for name, *_ in TIMED for clock in ("wall", "cpu")] if row is not dense else []
    return [
        f"{row['role']}, {row['precision']}",
        f"{row['megabytes']:.0f}",
        of_dense if row is dense else f"{value:.2f} ± {error:.2f}",
        tokens,
        *(times or ["-"] * 2 * len(TIMED)),
    ]


def _times(ratio_and_interval: Sequence[float]) -> str:
    value, low, high = ratio_and_interval
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=list(INPUTS), default=list(INPUTS))
    parser.add_argument("--seed", nargs="+", type=int, default=[0, 1, 2], help="of the calibration draws")
    parser.add_argument("--scored", type=int, default=0, help="windows or sentences; 0: all windows, 1,024 sentences")
    parser.add_argument("--search", type=int, default=12, help="plans that are tried; 0: no search")
    parser.add_argument("--bolaco", type=int, default=0, help="plans that Bolaco's search tries; 50 in the paper")
    parser.add_argument(
        "--macs", nargs="+", type=float, default=[0.0, 0.68], help="most that MiniLM keeps; 0: no limit"
    )
    parser.add_argument(
        "--files", type=Path, help="a folder for SmolLM2's files, which are measured; none: they are not"
    )
    parser.add_argument("--tuned", type=Path, help="a folder for SmolLM2 with its factors trained; none: it is not")
    parser.add_argument("--epochs", type=int, default=3, help="of that training")
    parser.add_argument("--train-items", type=int, default=64, help="windows of each")
    parser.add_argument(
        "--distill", nargs="+", type=float, default=[0.7, 1.0], help="its loss that follows the dense model"
    )
    parser.add_argument("--tag", default="this version", help="a name for the state of the code")
    parser.add_argument("--limit", type=int, default=36_000, help="processor seconds of one row")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of rows")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table; README.md for RESULTS")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(options: argparse.Namespace) -> list[Row]:
    """What is to be measured."""
    common = {"tag": options.tag, "scored": options.scored}
    rows: list[Row] = []
    if "smollm2" in options.net:
        language = {**common, "net": "smollm2"}
        rows.append({**language, "method": "dense"})
        drawn = [{**language, "inputs": INPUTS["smollm2"], "seed": seed} for seed in options.seed]
        rows += [{**row, "method": method} for method in ("budget", "svd_llm") for row in drawn]
        plans = (("search", options.search), ("bolaco", options.bolaco))
        rows += [{**row, "method": method, "search": count} for method, count in plans if count for row in drawn]
        kinds = [(role, precision) for role in ("dense", f"keep{KEEPS[0]}") for precision in PRECISIONS]
        of_file = {**language, "method": "file", "inputs": INPUTS["smollm2"], "refit_inputs": REFIT_INPUTS, "seed": 0}
        of_tuning = {
            **of_file,
            "method": "tuned",
            "epochs": options.epochs,
            "train_items": options.train_items,
            **TUNED,
        }
        rows += [{**of_tuning, "distill": share} for share in options.distill if options.tuned]
        rows += [{**of_file, "role": role, "precision": precision} for role, precision in kinds if options.files]
    if "minilm" in options.net:
        encoder = {**common, "net": "minilm", "inputs": INPUTS["minilm"]}
        rows += [{**encoder, "seed": seed, "macs": macs or None} for macs in options.macs for seed in options.seed]
    return rows


def main() -> None:
    """Measure what is missing, one process each, and write the table."""
    options = parsed()
    if options.row:
        in_folders = {
            "file": partial(measured_files, folder=options.files),
            "tuned": partial(measured_tuning, folder=options.tuned),
        }
        language = in_folders.get(options.row.get("method"), measured_language_model)
        work = language if options.row["net"] == "smollm2" else measured_encoder
        work(options.row)
        return
    if not options.table:
        folders = (("--files", options.files), ("--tuned", options.tuned))
        files = [word for flag, folder in folders if folder for word in (flag, str(folder))]
        measure_missing(options.results, settings(options), lambda row: in_child(__file__, row, options.limit, files))
    print(text := table(read_rows(options.results)))
    if options.results == RESULTS:
        put_in_readme("transformers", text)


if __name__ == "__main__":
    main()
