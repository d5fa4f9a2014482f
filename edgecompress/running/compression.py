"""The first stages, each done once: score, plan, decompose or factorize, fine-tune, store.

Keys of stages hold all that a result depends on, and no words; folders of earlier runs are resumed by them.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from torch import nn

from edgecompress.calibrating import recalibrate_if_better
from edgecompress.codecs.ada_tucker import refresh
from edgecompress.codecs.payload import Stored
from edgecompress.costs import param_bytes
from edgecompress.decomposing import decompose
from edgecompress.decomposing.choosing import refit_nearest
from edgecompress.decomposing.refitting import refit
from edgecompress.devices import device_named
from edgecompress.files import Json, make_folder
from edgecompress.finetuning import finetune
from edgecompress.finetuning.checkpoints import discard
from edgecompress.finetuning.loop import FineTuned
from edgecompress.finetuning.workers import workers
from edgecompress.models import check_runs
from edgecompress.planning.outlook import warnings_of
from edgecompress.plans import CompressionPlan
from edgecompress.progress import notice
from edgecompress.recipes.base import Recipe, RecipeInputs
from edgecompress.recipes.staged import decomposed_in_stages, fitting
from edgecompress.running.budgeting import Planning, in_float, plan_within
from edgecompress.running.claiming import CHECKPOINT_FILE, DECOMPOSED, RECIPE_FILE, TRAINED, forget_plan
from edgecompress.running.keys import former_key, options_key
from edgecompress.running.nearness import nearness
from edgecompress.running.options import Options
from edgecompress.running.pipeline import SCORES, Pipeline
from edgecompress.running.resuming import Done, key_of
from edgecompress.selectors.ceilings import needs_times
from edgecompress.settings import FineTuning, Storage
from edgecompress.sources.compressed_folder import (
    CODES_FILE,
    MODEL_FILE,
    PLAN_FILE,
    WEIGHTS_FILE,
    rebuilt,
    save_compressed,
    save_stored,
)
from edgecompress.storing import StorageCost, decoded, onnx_bytes, train_codes, without_dropped
from edgecompress.storing.planning import plan_storage
from edgecompress.targets import target_named
from edgecompress.timing.planning import Place


def tuning_key(tuning: FineTuning) -> Json:
    """Identifies the options of a training as in finished folders: by first names, later fields only where chosen."""
    fields, usual = asdict(tuning), FineTuning()
    portions = fields.pop("portions")
    for later in ("train", "train_items"):
        if fields[later] == getattr(usual, later):
            del fields[later]
    return {**fields, "stages": portions}


def score_dense(pipeline: Pipeline) -> Done:
    """The dense model's score."""

    def work() -> Json:
        return pipeline.test_score(pipeline.dense_model, "the dense model")

    return pipeline.stages.do("score_dense", [pipeline.dense_key, pipeline.data_key], work)


def start(pipeline: Pipeline) -> Done:
    """What fine-tuning starts from, ``plan.json`` and ``decomposed/``, by a codec, a recipe or without one."""
    options = pipeline.options
    if options.storage is not None:
        return factorize(pipeline, options.storage)
    if options.recipe is not None:
        return train_recipe(pipeline, options.recipe)
    return fill(pipeline, make_plan(pipeline))


# -- plan and decompose ----------------------------------------------------------------------------------------------


def make_plan(pipeline: Pipeline) -> Done:
    """``plan.json``: the given plan, or a new one."""

    def work() -> Json:
        made = pipeline.options.given or _new_plan(pipeline)
        forget_plan(pipeline.folder)
        for warning in warnings_of(made):
            notice(f"plan: {warning}")
        made.save(pipeline.folder / PLAN_FILE)
        return {"layers": len(made.layers), "skipped": len(made.skipped)}

    selector = pipeline.options.selector
    keys = (_plan_key(pipeline, by) for by in (options_key(selector), former_key(selector)))
    return pipeline.stages.do("plan", next(keys), work, (PLAN_FILE,), former=next(keys))


def _plan_key(pipeline: Pipeline, selector: object) -> list[object]:
    options = pipeline.options
    if options.given is not None:
        return [pipeline.dense_key, options.given.to_json()]
    scope = asdict(options.scope).values()
    place = [options.targets[0], options.device, _threads(options)] if needs_times(options.selector) else []
    return [pipeline.dense_key, [selector, list(scope), *pipeline.calibration_key, *place]]


def _new_plan(pipeline: Pipeline) -> CompressionPlan:
    options = pipeline.options
    place = Place(target_named(options.targets[0]), device_named(options.device, options.place), _threads(options))
    tuned = options.tuning.epochs > 0
    given = Planning(
        pipeline.survey, options.scope, pipeline.sample, place, pipeline.calibration, tuned, pipeline.progress
    )
    return plan_within(given, in_float(options.selector, options.quantize))


def _threads(options: Options) -> int:
    return (options.threads or (1,))[0]


def fill(pipeline: Pipeline, planned: Done) -> Done:
    """``decomposed/``: the chains filled, batch norms re-estimated where that helps."""

    def work() -> Json:
        chosen = CompressionPlan.load(pipeline.folder / PLAN_FILE)
        model, calibration = _filled(pipeline, chosen)
        return _keep_start(pipeline, model, chosen, {"calibration": calibration})

    options = pipeline.options
    staged = tuning_key(options.tuning) if options.tuning.portions > 1 else {}
    inputs = [planned.key, *pipeline.calibration_key, options.asymmetric is not False, staged]
    return pipeline.stages.do("decompose", inputs, work, (DECOMPOSED,), together=bool(staged))


def _filled(pipeline: Pipeline, chosen: CompressionPlan) -> tuple[nn.Module, Json | None]:
    """By weights alone, or fitted to the calibration inputs, batch norms re-estimated where that helps."""
    dense, progress, calibration = pipeline.dense_model, pipeline.progress, pipeline.calibration
    asymmetric, tuning = pipeline.options.asymmetric, pipeline.options.tuning
    if tuning.portions > 1:
        sample, folder = pipeline.sample, pipeline.folder
        return decomposed_in_stages(dense, chosen, sample, tuning, calibration, folder, progress), None
    if calibration is None:
        return decompose(dense, chosen, progress=progress), None
    if asymmetric is None:
        model, asymmetric = refit_nearest(dense, chosen, calibration, progress=progress)
    else:
        model = refit(dense, chosen, calibration, asymmetric=asymmetric, progress=progress)
    model, changed = recalibrate_if_better(model, dense, calibration)
    return model, {"items": len(calibration.inputs[0]), "asymmetric": asymmetric, "recalibrated": changed}


def _keep_start(pipeline: Pipeline, model: nn.Module, chosen: CompressionPlan, facts: Json) -> Json:
    """Score a decomposed model and write it to ``decomposed/``; the first process alone does."""
    if workers().rank:
        return {}
    sample = pipeline.sample
    check_runs(model, sample.inputs, f"{sample.name}, decomposed,")
    chosen.save(make_folder(pipeline.folder) / PLAN_FILE)
    save_compressed(pipeline.folder / DECOMPOSED, model, chosen, sample)
    return {**pipeline.test_score(model, "the decomposed model"), **facts}


def factorize(pipeline: Pipeline, storage: Storage) -> Done:
    """``plan.json`` and ``decomposed/``: weights as factors, fresh ones or those of the dense weights."""
    options, dense, sample = pipeline.options, pipeline.dense_model, pipeline.sample
    include, exclude, seed = options.scope.include, options.scope.exclude, options.tuning.seed

    def work() -> Json:
        made = options.given or plan_storage(
            dense, sample.inputs, storage, include=include, exclude=exclude, name=sample.name
        )
        pipeline.progress("factorize", 0, 1, f"{len(made.layers)} layers")
        model = decompose(dense, made, fill=storage.start == "dense")
        if storage.start == "scratch":
            refresh(model, seed)
        return _keep_start(pipeline, model, made, {"calibration": None})

    choice = options.given.to_json() if options.given else [include, exclude]
    inputs = [pipeline.dense_key, repr(storage.unrounded), choice, seed]
    return pipeline.stages.do("factorize", inputs, work, (PLAN_FILE, DECOMPOSED))


def train_recipe(pipeline: Pipeline, recipe: Recipe) -> Done:
    """``plan.json`` and ``decomposed/`` by training."""
    options, checkpoint = pipeline.options, pipeline.folder / RECIPE_FILE
    # averaged weights, portions and which weights are trained belong to the fine-tuning
    tuning = replace(options.tuning, epochs=options.recipe_epochs, ema=0.0, portions=1, train="all")

    def key(recipe_key: object, selector_key: object) -> list[object]:
        settings = [recipe_key, selector_key, repr(options.scope), tuning_key(tuning)]
        return [pipeline.dense_key, *settings, *pipeline.calibration_key]

    inputs = key(options_key(recipe), options_key(options.selector))
    former = key(former_key(recipe), former_key(options.selector))

    def work() -> Json:
        wanted = RecipeInputs(
            pipeline.dense_model,
            pipeline.sample,
            options.selector,
            options.scope,
            tuning,
            pipeline.calibration,
            checkpoint,
            key_of(*inputs),
            pipeline.progress,
        )
        made = recipe.start(wanted)
        facts = {"name": recipe.name, **made.facts}
        return _keep_start(pipeline, made.model, made.plan, {"calibration": None, "recipe": facts})

    finished = pipeline.stages.do("recipe", inputs, work, (PLAN_FILE, DECOMPOSED), together=True, former=former)
    discard(checkpoint)
    return finished


# -- fine-tune and store ---------------------------------------------------------------------------------------------


def tune(pipeline: Pipeline, decomposed: Done) -> Done:
    """The compressed model in the folder itself: fine-tuned, the best epoch by validation score."""
    options, checkpoint = pipeline.options, pipeline.folder / CHECKPOINT_FILE

    def work() -> Json:
        chosen, done = _tuned(pipeline, checkpoint, decomposed.key)
        if workers().rank:
            return {}
        save_compressed(pipeline.tuned_folder, done.model, chosen, pipeline.sample)
        history = [asdict(epoch) for epoch in done.history]
        before = {key: decomposed.result.get(key) for key in SCORES}
        reached = pipeline.test_score(done.model, "the fine-tuned model") if history else before
        training = {"epochs": len(history), "best_epoch": done.best_epoch, "history": history} if history else None
        return {**reached, "training": training}

    files = (MODEL_FILE, PLAN_FILE, WEIGHTS_FILE) if options.storage is None else (TRAINED,)
    inputs = [decomposed.key, tuning_key(options.tuning), *pipeline.teacher_key]
    finished = pipeline.stages.do("finetune", inputs, work, files, together=True)
    discard(checkpoint)
    return finished


def _tuned(pipeline: Pipeline, checkpoint: Path, key: str) -> tuple[CompressionPlan, FineTuned]:
    """The model of ``decomposed/`` fine-tuned, and its plan."""
    storage = pipeline.options.storage
    begun = rebuilt(pipeline.sample, pipeline.folder / DECOMPOSED)
    assert begun.plan is not None
    model = begun.build()
    if storage is not None:
        without_dropped(model, storage)
    done = finetune(
        model,
        pipeline.sample,
        fitting(pipeline.options.tuning, begun.plan, stored=storage is not None),
        teacher=pipeline.teacher,
        plan=begun.plan if storage is None else None,
        checkpoint=checkpoint,
        key=key,
        progress=pipeline.progress,
    )
    return begun.plan, done


def store(pipeline: Pipeline, tuned: Done, storage: Storage) -> Done:
    """``model.ectk``: the factors of ``trained/`` rounded, trained on and coded; the folder is then a MODEL."""
    checkpoint, tuning = pipeline.folder / CHECKPOINT_FILE, replace(pipeline.options.tuning, train="all")

    def work() -> Json:
        begun = rebuilt(pipeline.sample, pipeline.tuned_folder)
        assert begun.plan is not None
        stored, done = train_codes(
            begun.build(),
            pipeline.sample,
            storage,
            tuning,
            teacher=pipeline.teacher,
            checkpoint=checkpoint,
            key=tuned.key,
            progress=pipeline.progress,
        )
        if workers().rank:
            return {}
        return {**_stored(pipeline, stored, begun.plan), "history": [asdict(epoch) for epoch in done.history]}

    inputs = [tuned.key, repr(storage), tuning_key(tuning)]
    finished = pipeline.stages.do("store", inputs, work, (MODEL_FILE, PLAN_FILE, CODES_FILE), together=True)
    discard(checkpoint)
    return finished


def _stored(pipeline: Pipeline, stored: Stored, chosen: CompressionPlan) -> Json:
    """Write the codes; their score and what they take."""
    payload_bytes = save_stored(pipeline.folder, stored, chosen, pipeline.sample)
    model, dense_bytes = decoded(pipeline.dense_model, stored), param_bytes(pipeline.dense_model)
    onnx = onnx_bytes(model, replace(pipeline.sample, plan=chosen))
    params = sum(parameter.numel() for parameter in pipeline.dense_model.parameters())
    taken = StorageCost(payload_bytes, stored.numbers, onnx, params, dense_bytes)
    return {**pipeline.test_score(model, "the stored model"), "storage": taken.to_json()}


# -- compare with the dense model ------------------------------------------------------------------------------------


def compare_outputs(pipeline: Pipeline, finished: Done) -> Done:
    """How near the outputs of the compressed model in the folder are to the dense one's."""

    def work() -> Json:
        model = rebuilt(pipeline.sample, pipeline.folder).model()
        return asdict(nearness(pipeline, model))

    return pipeline.stages.do("outputs", [finished.key, *pipeline.calibration_key], work)
