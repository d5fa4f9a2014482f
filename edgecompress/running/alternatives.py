"""``pareto/1``, ``pareto/2`` ...: other plans of the front, compressed, trained and exported as the chosen one is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from edgecompress.files import make_folder
from edgecompress.plans import CompressionPlan
from edgecompress.processes import is_first
from edgecompress.progress import notice
from edgecompress.reporting.fronts import Front, front_from
from edgecompress.running.claiming import PARETO, forget_front
from edgecompress.running.compression import fill, make_plan, score_dense, tune
from edgecompress.running.delivery import export_files
from edgecompress.running.pipeline import Pipeline
from edgecompress.running.resuming import STAGES, Done
from edgecompress.selectors import Budget
from edgecompress.sources.compressed_folder import PLAN_FILE
from edgecompress.timing.fronts import front_of

Alternatives = dict[int, tuple[str, float | None]]
"""By the place of a plan in what was measured: its folder, in that of the run, and its score on the test split."""


def other_plans(pipeline: Pipeline) -> Alternatives:
    """Each of ``--pareto`` plans in a folder of its own, which is a MODEL; what is finished is not done again."""
    count = pipeline.options.pareto
    made = CompressionPlan.load(pipeline.folder / PLAN_FILE)
    found: Alternatives = {}
    for number, (at, plan) in enumerate(front_of(made, count) if count else (), 1):
        folder = Path(PARETO) / str(number)
        exported = _compressed(pipeline, folder, plan)
        found[at] = (folder.as_posix(), exported.result[pipeline.options.targets[0]].get("accuracy"))
    if count and is_first():
        for gone in forget_front(pipeline.folder, len(found)):
            notice(f"{gone}: of a longer --pareto before, is removed")
    return found


def _compressed(pipeline: Pipeline, folder: Path, plan: CompressionPlan) -> Done:
    """Decomposed, fine-tuned and exported, as by ``run --plan``."""
    options = replace(pipeline.options, given=plan, selector=Budget(), pareto=0)

    def listen(stage: str, done: int, total: int, detail: str) -> None:
        pipeline.progress(f"{folder.as_posix()}: {stage}", done, total, detail)

    sample = replace(pipeline.sample, adapters=plan.adapters)
    own = replace(pipeline, sample=sample, folder=pipeline.folder / folder, options=options, progress=listen)
    if is_first():
        _remember_score(pipeline, own)
    dense = score_dense(own)
    return export_files(own, "compressed", dense, tune(own, fill(own, make_plan(own))))


def _remember_score(pipeline: Pipeline, own: Pipeline) -> None:
    """The dense model's is the run's."""
    known = pipeline.folder / STAGES / "score_dense.json"
    if known.is_file():
        shutil.copyfile(known, make_folder(own.folder / STAGES) / known.name)


def front_in(pipeline: Pipeline, made: Alternatives) -> Front | None:
    """What was measured for the run's plan; None where there is no limit on latency."""
    measured = CompressionPlan.load(pipeline.folder / PLAN_FILE).measured or {}
    return front_from(measured, made) if "latency" in measured else None
