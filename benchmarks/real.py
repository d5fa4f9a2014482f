"""How near compressed real networks stay to the dense ones without fine-tuning, and what plan and refit take.

    EDGECOMPRESS_DATA=... python benchmarks/real.py [--net lite1 ...] [--keep 0.7 ...] [--calibration 500 ...]

For each net (``real_nets.py``) and setting: plan, refit, batch norms re-estimated where that helps, all as ``compress``
does it; then, on inputs that nothing was fitted to: accuracy, agreement of the answers with the dense net's, SQNR and
KL divergence of the outputs. One process a row, one thread. Rows are appended to a file and not measured twice;
``--tag`` names the state of the code, so that states can be compared. A net that cannot be had is left out with the
reason.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from itertools import product
from pathlib import Path

import torch
from children import in_child, measure_missing, read_rows, say, used
from real_nets import NETS, Missing, Net
from rows import Row, put_in_readme
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.models.datasets import first
from edgecompress.plans import CompressionPlan
from edgecompress.running.claiming import DECOMPOSED
from edgecompress.running.compression import fill, make_plan
from edgecompress.running.options import Options
from edgecompress.running.pipeline import Pipeline
from edgecompress.selectors import Budget
from edgecompress.settings import FineTuning
from edgecompress.sources.compressed_folder import PLAN_FILE, rebuilt

RESULTS = Path(__file__).with_name("results") / "real.jsonl"
KEEPS, CALIBRATION = (0.85, 0.7, 0.5), (128, 500)
SCORED: dict[str, int] = {"lite1-160": 250, "lite1": 250, "lite2": 250, "crepe": 1000, "minilm": 500}
"""Inputs; of the others ``MOST_SCORED``."""
MOST_SCORED = 2000
FITTED = 128
"""Of the calibration inputs that outputs are compared on too, to see what does not carry over."""
BATCH, SOFT = 50, 4.0
"""Inputs run at once; the temperature that predicted losses are of, which count its square (Hinton et al. 2015)."""


def measured(net: Net, setting: Row) -> None:
    """Say the fields of one row as they are known."""
    dense, small, calibration = compressed(net, setting)
    say(**scores(net, dense, small, setting["scored"]), **fitted_score(net, dense, small, calibration.inputs[0]))


def compressed(net: Net, setting: Row) -> tuple[nn.Module, nn.Module, Calibration]:
    """The net, and what a pipeline without fine-tuning makes of it; says what was planned, and what it took."""
    with tempfile.TemporaryDirectory() as folder:
        tuning = FineTuning(epochs=0, seed=setting["seed"])
        options = Options(Budget(setting["keep"]), calibrate=setting["calibration"], tuning=tuning)
        pipeline = Pipeline(net.sample, Path(folder), options)
        ready, loading = used(lambda: (pipeline.survey, pipeline.calibration_key, pipeline.calibration))
        say(loaded_mb=loading["peak_mb"])
        planned, plan_took = used(lambda: make_plan(pipeline))
        say(plan=plan_took, **planned_facts(CompressionPlan.load(Path(folder) / PLAN_FILE)))
        filled, refit_took = used(lambda: fill(pipeline, planned))
        say(refit=refit_took, recalibrated=(filled.result["calibration"] or {}).get("recalibrated"))
        small = rebuilt(pipeline.sample, Path(folder) / DECOMPOSED).model()
    assert ready[2] is not None
    return pipeline.dense_model, small, ready[2]


def planned_facts(plan: CompressionPlan) -> Row:
    """What a plan promises."""
    assert plan.dense is not None
    assert plan.compressed is not None
    losses = [layer.loss for layer in plan.layers if layer.loss is not None]
    return {
        "macs_kept": plan.compressed.macs / plan.dense.macs,
        "params_kept": plan.compressed.params / plan.dense.params,
        "layers": len(plan.layers),
        "largest_error": max((layer.error for layer in plan.layers), default=0.0),
        "predicted": sum(losses),
        "chosen": {layer.name: [layer.method, *layer.ranks, float(f"{layer.loss or 0:.2g}")] for layer in plan.layers},
    }


def scores(net: Net, dense: nn.Module, small: nn.Module, count: int) -> Row:
    """Outputs of both on the first ``count`` inputs that are scored, and right answers where there are labels."""
    inputs, labels = net.scored.batch(torch.arange(min(count, len(net.scored))))
    ours, theirs = (outputs_of(model, inputs) for model in (small, dense))
    right = {"accuracy": percent(ours.argmax(1) == labels), "dense": percent(theirs.argmax(1) == labels)}
    return {**(right if net.labelled else {}), **distances(net, ours, theirs)}


def fitted_score(net: Net, dense: nn.Module, small: nn.Module, inputs: Tensor) -> Row:
    """The same distances on calibration inputs."""
    (given,) = first((inputs,), FITTED)
    return {"fitted": distances(net, outputs_of(small, given), outputs_of(dense, given))}


def distances(net: Net, ours: Tensor, theirs: Tensor) -> Row:
    """Agreement in percent (of vectors: their cosine), SQNR in dB and, for scores of classes, mean KL divergence."""
    same = nn.functional.cosine_similarity(ours, theirs) if net.vectors else ours.argmax(1) == theirs.argmax(1)
    noise = float((ours - theirs).double().square().sum() / theirs.double().square().sum())
    found: Row = {"agreement": percent(same), "sqnr_db": round(-10 * math.log10(max(noise, 1e-12)), 2)}
    if net.classes:
        found |= {"kl": divergence(ours, theirs, 1.0), "kl_soft": SOFT**2 * divergence(ours, theirs, SOFT)}
    return found


def divergence(ours: Tensor, theirs: Tensor, temperature: float) -> float:
    """Mean KL divergence in nats of the softened class probabilities from the dense net's."""
    small, dense = (torch.log_softmax(outputs.double() / temperature, 1) for outputs in (ours, theirs))
    return float((dense.exp() * (dense - small)).sum(1).mean())


def percent(values: Tensor) -> float:
    """Their mean."""
    return round(100 * float(values.float().mean()), 2)


def outputs_of(model: nn.Module, inputs: Tensor) -> Tensor:
    """Of all inputs, in batches."""
    with torch.no_grad():
        return torch.cat([model(part) for part in inputs.split(BATCH)])


# -- rows and their table --------------------------------------------------------------------------------------------


def table(rows: list[Row]) -> str:
    """Markdown: a line for each row, those of one setting beneath each other."""
    titles = ["net", "kept", "inputs", "state", "accuracy (dense)", "agreement", "SQNR dB", "KL", "KL on fitted"]
    titles += ["softened KL", "predicted", "plan", "refit"]
    lines = [titles, ["---"] * len(titles)]
    order = {key: index for index, key in enumerate(dict.fromkeys(map(_place, rows)))}
    lines += [_cells(row) for row in sorted(rows, key=lambda row: order[_place(row)])]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _place(row: Row) -> tuple[object, ...]:
    return tuple(row[field] for field in ("net", "keep", "calibration", "seed", "scored"))


def _cells(row: Row) -> list[str]:
    fitted = row.get("fitted", {})
    right = f"{row['accuracy']:.1f} ({row['dense']:.1f})" if "accuracy" in row else "-"
    what = [row["net"], f"{row['keep']:g}", str(row["calibration"]), row["tag"], right]
    near = [_number(row, "agreement", ".1f"), _number(row, "sqnr_db", ".1f")]
    losses = [_number(row, "kl", ".4f"), _number(fitted, "kl", ".4f")]
    losses += [_number(row, "kl_soft", ".4f"), _number(row, "predicted", ".4f")]
    return [*what, *near, *losses, usage(row, "plan"), usage(row, "refit")]


def _number(row: Row, field: str, form: str) -> str:
    return format(row[field], form) if field in row else "-"


def usage(row: Row, stage: str) -> str:
    """Seconds and memory of a stage, in words."""
    if stage in row:
        return f"{row[stage]['cpu_s']:.0f} s, {row[stage]['peak_mb'] / 1000:.1f} GB"
    return f"not done in {row['not_done_s']} s" if "not_done_s" in row else "-"


def settings(options: argparse.Namespace) -> list[Row]:
    """What is to be measured, of the nets that are there."""
    there = [name for name in options.net if available(name, options.folder)]
    return [
        {
            "tag": options.tag,
            "net": net,
            "keep": keep,
            "calibration": calibration,
            "seed": options.seed,
            "scored": options.scored or SCORED.get(net, MOST_SCORED),
        }
        for net, keep, calibration in product(there, options.keep, options.calibration)
    ]


def available(name: str, folder: Path) -> bool:
    """Can the net be had? Otherwise the reason is printed."""
    try:
        NETS[name](folder)
    except Missing as reason:
        print(f"{name}: left out: {reason}", flush=True)
        return False
    return True


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in NETS if not name.endswith("-test")]
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=usual)
    parser.add_argument("--keep", nargs="+", type=float, default=KEEPS, help="of the MACs")
    parser.add_argument("--calibration", nargs="+", type=int, default=CALIBRATION, help="inputs")
    parser.add_argument("--seed", type=int, default=0, help="of their draw")
    parser.add_argument("--scored", type=int, default=0, help="inputs; 0: as many as the net has, 2,000 at most")
    parser.add_argument("--tag", default="this version", help="a name for the state of the code")
    parser.add_argument("--limit", type=int, default=3600, help="processor seconds of one row")
    parser.add_argument("--folder", type=Path, default=Path("out/real"), help="of weights and resized pictures")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of rows")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table; README.md for RESULTS")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, one process each, and write the table."""
    options = parsed()
    if options.row:
        measured(NETS[options.row["net"]](options.folder), options.row)
        return
    more = ["--folder", str(options.folder)]
    if not options.table:
        measure_missing(options.results, settings(options), lambda row: in_child(__file__, row, options.limit, more))
    print(text := table(read_rows(options.results)))
    if options.results == RESULTS:
        put_in_readme("real", text)


if __name__ == "__main__":
    main()
