"""One model on its way through the stages, in one folder that remembers what is finished.

::

    out/
      model.json plan.json model.safetensors   the compressed model: give the folder as MODEL
      dense.onnx model.onnx (+ .json, .golden.npz, .profile.json)
      decomposed/                               the compressed model before fine-tuning
      comparison.json report.json report.html report.md
      bundle/                                   what an app ships
      stages/                                   which stages are finished, with their results
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from edgecompress.artifacts import profile_path, versions
from edgecompress.bundling import bundle, bundled_target, check_bundle
from edgecompress.calibrating import Calibration, calibration_of, recalibrate_if_better
from edgecompress.codecs.ada_tucker import refresh
from edgecompress.costs import param_bytes
from edgecompress.decomposing import check_plan, decompose, refuse_noticed, replaced, uses_codec
from edgecompress.decomposing.dry_run import noticed
from edgecompress.decomposing.refitting import refit
from edgecompress.devices import device_named
from edgecompress.errors import DataError, ExportError, FileError, ModelError, PlanError
from edgecompress.exporting import ExportOptions, check_exportable, check_traceable, export, file_name
from edgecompress.files import Json, make_folder, write_json
from edgecompress.finetuning import finetune, state_digest
from edgecompress.finetuning.checkpoints import discard
from edgecompress.finetuning.workers import shared, workers
from edgecompress.models import SPLITS, Sample, check_runs
from edgecompress.models.datasets import fingerprint, first, origin, size
from edgecompress.planning import plan, refuse_out_of_reach, survey
from edgecompress.plans import CompressionPlan
from edgecompress.profiling import measure
from edgecompress.progress import Progress, silent
from edgecompress.recipes.base import Asked, Recipe
from edgecompress.recipes.staged import decomposed_in_stages, last_epochs
from edgecompress.replacing import Replaces
from edgecompress.reporting import HTML_NAME, JSON_NAME, MARKDOWN_NAME, write_report
from edgecompress.running.claiming import (
    BUNDLE,
    CHECKPOINT_FILE,
    COMPARISON_FILE,
    DECOMPOSED,
    RECIPE_FILE,
    TRAINED,
    Owner,
    check_claim,
    claim,
)
from edgecompress.running.options import Options
from edgecompress.running.resuming import Done, Stages, key_of
from edgecompress.scoring import split_score
from edgecompress.settings import Effort, Storage
from edgecompress.sources import code_digest, folder_of
from edgecompress.sources.compressed_folder import (
    CODES_FILE,
    MODEL_FILE,
    PLAN_FILE,
    WEIGHTS_FILE,
    rebuilt,
    save_compressed,
    save_stored,
)
from edgecompress.split_scores import SplitScore
from edgecompress.storing import StorageCost, decoded, onnx_bytes, train_codes, without_dropped
from edgecompress.storing.planning import plan_storage
from edgecompress.targets import target_named
from edgecompress.targets.child_converter import require

RECALIBRATED = 256
"""Calibration inputs that batch norms are re-estimated on; every position of each counts."""

SCORES = ("accuracy", "scored")
"""What a stage that scores says: the score, and what it takes to pair it with another."""
STEMS = {"dense": "dense", "compressed": "model"}


@dataclass(frozen=True)
class Line:
    """One model on its way through the stages, in one folder; ``force``: what is there of others gives way."""

    sample: Sample
    folder: Path
    options: Options
    progress: Progress = silent
    force: bool = False

    @property
    def stages(self) -> Stages:
        """What is finished in the folder."""
        return Stages(self.folder)

    @cached_property
    def dense_model(self) -> nn.Module:
        """The model as given, built once."""
        return self.sample.model()

    @cached_property
    def dense_key(self) -> str:
        """Identifies the model as given and what works on it: structure, weights, code, versions."""
        parts = (str(self.dense_model), state_digest(self.dense_model), code_digest(self.sample.file), versions())
        return key_of(*parts)

    @property
    def teacher(self) -> nn.Module:
        """What fine-tuning learns from."""
        return self.dense_model if self.options.teacher is None else self.options.teacher.model

    @property
    def _taught(self) -> list[str]:
        """Identifies another teacher than the dense model."""
        other = self.options.teacher
        return [] if other is None else [str(other.model), state_digest(other.model)]

    @cached_property
    def data(self) -> Json | None:
        """The test split in words, or None for a sample without data."""
        if self.sample.splits is None:
            return None
        test = self.sample.data("test")
        return {"test": {"items": size(test), "origin": origin(test)}}

    @cached_property
    def data_key(self) -> list[str]:
        """Identifies the three splits."""
        if self.sample.splits is None:
            return []
        return [fingerprint(self.sample.data(split), inputs_too=split != "train") for split in SPLITS]

    @cached_property
    def calibration(self) -> Calibration | None:
        """The unlabelled inputs, or None without data or where none were asked for."""
        if self.data is None or self.options.calibrate == 0:
            return None
        return calibration_of(self.sample, self.options.calibrate, self.options.tuning.seed)

    def check(self, *, exports: bool = False) -> None:
        """Refuse at once what would be refused hours later; ``exports``: files for targets and the bundle too.

        Raises:
            FileError: the output folder is the model's own, or holds another model or what no line wrote.
            PlanError, ExportError, DeviceError, DataError: the given plan, a target, the device or the data do not fit.
        """
        self._refuse_inputs()
        if state_digest(self.sample.model()) != state_digest(self.dense_model):
            raise ModelError(
                f"{self.sample.name}: model() gives other weights each time; load trained ones, or seed it"
            )
        self._check_choice()
        if self.options.teacher is not None:
            self._check_teacher(self.options.teacher.model)
        if self.data is None:
            self._check_untrained()
        device_named(self.options.device, self.options.place)
        for target in self.options.targets:
            require(target_named(target))
        first = target_named(self.options.targets[0])
        if not first.runs_here:
            raise ExportError(f"{first.name}: cannot be measured on this machine; give another --target before it")
        bundled_target(self.options.targets, self.options.platform)
        shared(lambda: self._claim(exports=exports))
        if exports:
            self._check_traceable()

    def _check_traceable(self) -> None:
        """PyTorch can trace the model, which is seen once."""

        def work() -> Json:
            check_traceable(self.dense_model, self.sample.inputs, self.sample.name)
            return {}

        self.stages.do("trace", [self.dense_key], work)

    def _refuse_inputs(self) -> None:
        """Nothing that the line reads lies where it writes."""
        read = [folder_of(source) for source in _sources(self.sample)]
        if self.options.teacher is not None:
            read.append(folder_of(self.options.teacher.name))
        for folder in (folder for folder in read if folder is not None):
            if folder == self.folder.resolve():
                raise FileError(f"{self.folder}: is the model itself; choose another folder with -o")
            if folder.is_relative_to(self.folder.resolve()):
                raise FileError(f"{self.folder}: holds the model {folder} itself; choose another folder with -o")

    def _claim(self, *, exports: bool) -> None:
        """Make the folder this line's own, unless something there is in the way."""
        model = Owner(self.sample.name, self.sample.source, self.dense_key)
        owned = check_claim(self.folder, model, force=self.force)
        replaces: Replaces = "anything" if self.force else "ours" if owned else "same model"
        for role in STEMS if exports else ():
            for target in map(target_named, self.options.targets):
                file = self.folder / file_name(target, STEMS[role])
                check_exportable(file, target, self.sample, replaces)
        if exports:
            check_bundle(self.folder / BUNDLE, force=self.force)
        claim(self.folder, model)

    @staticmethod
    def exported_file(role: str, target: str) -> str:
        """The name of a model's file in the folder."""
        return file_name(target_named(target), STEMS[role])

    def _check_untrained(self) -> None:
        """Without data nothing is asked for that trains."""
        if self.options.storage is not None:
            raise DataError(f"{self.sample.name}: has no data to train codes on; define data(split)")
        if self.options.tuning.epochs:
            raise DataError(f"{self.sample.name}: has no data to fine-tune on; define data(split) or use --epochs 0")

    def _check_choice(self) -> None:
        """The given plan fits, or there is one that meets the budget."""
        options = self.options
        if options.given is not None:
            self._check_given(options.given)
        elif options.recipe is None and options.storage is None:
            seen = survey(self.dense_model, self.sample.inputs, options.scope)
            refuse_out_of_reach(seen, options.selector, options.scope)

    def _check_given(self, given: CompressionPlan) -> None:
        check_plan(self.dense_model, given)
        refuse_noticed(noticed(self.dense_model, self.sample.inputs, replaced(given)))
        if uses_codec(given) and self.options.storage is None:
            codec = given.layers[0].method
            raise PlanError(f"the plan is for {codec}: say how its codes are trained, with Options(storage=...)")

    def _check_teacher(self, teacher: nn.Module) -> None:
        """Its outputs can stand for the dense model's, and nothing is asked for that needs the dense model's layers."""
        options = self.options
        if options.tuning.distill == 0:
            raise ModelError("--distill 0 learns from no teacher; drop one of them")
        if options.tuning.epochs == 0 and options.storage is None:
            raise ModelError("--epochs 0 trains nothing, so that a teacher is of no use; drop one of them")
        for what, asked in (("--feature", options.tuning.feature), ("--stages", options.tuning.stages > 1)):
            if asked:
                raise ModelError(f"{what} compares layers with the dense model's; it goes without another teacher")
        if options.recipe is not None:
            raise ModelError(f"recipe {options.recipe.name} learns from the dense model; it goes without a teacher")
        ours, theirs = self._gives(self.dense_model, self.sample.name), self._gives(teacher, "the teacher")
        if ours != theirs:
            raise ModelError(f"the teacher gives {theirs} where {self.sample.name} gives {ours}")

    def _gives(self, model: nn.Module, name: str) -> str:
        """The shapes of a model's outputs on the example."""
        outputs = check_runs(model, self.sample.inputs, name)
        return ", ".join(str(tuple(output.shape)) for output in outputs)

    def test_score(self, model: nn.Module, what: str) -> Json:
        """Score on the whole test split, and as it can be paired with others; both None without data."""
        if self.data is None:
            return dict.fromkeys(SCORES)
        found = split_score(model, self.sample, progress=_renamed(self.progress, f"score {what}"))
        return {"accuracy": found.value, "scored": found.to_json()}

    # -- stages --------------------------------------------------------------------------------------------------

    def score_dense(self) -> Done:
        """The dense model's score."""

        def work() -> Json:
            return self.test_score(self.dense_model, "dense")

        return self.stages.do("score_dense", [self.dense_key, self.data_key], work)

    def plan(self) -> Done:
        """``plan.json``: the given plan, or a new one."""
        options = self.options

        def work() -> Json:
            made = options.given or plan(
                self.dense_model,
                self.sample.inputs,
                options.selector,
                **asdict(options.scope),
                calibration=self.calibration,
                name=self.sample.name,
                progress=self.progress,
            )
            for stale in (MODEL_FILE, COMPARISON_FILE, HTML_NAME, MARKDOWN_NAME, JSON_NAME):
                (self.folder / stale).unlink(missing_ok=True)
            made.save(self.folder / PLAN_FILE)
            return {"layers": len(made.layers), "skipped": len(made.skipped)}

        scope = [options.methods, options.multiple, options.include, options.exclude]
        asked = options.given.to_json() if options.given else [repr(options.selector), scope, *self._calibrated_by]
        return self.stages.do("plan", [self.dense_key, asked], work, (PLAN_FILE,))

    @property
    def _calibrated_by(self) -> list[object]:
        """Identifies the calibration inputs."""
        return [self.options.calibrate, self.options.tuning.seed, self.data_key]

    def start(self) -> Done:
        """What fine-tuning starts from, ``plan.json`` and ``decomposed/``, by a codec, a recipe or without one."""
        if self.options.storage is not None:
            return self.factorize(self.options.storage)
        return self.decompose(self.plan()) if self.options.recipe is None else self.train_recipe(self.options.recipe)

    def factorize(self, storage: Storage) -> Done:
        """``plan.json`` and ``decomposed/``: weights as factors, fresh ones or those of the dense weights."""
        options = self.options
        include, exclude, seed = options.include, options.exclude, options.tuning.seed

        def work() -> Json:
            dense, sample = self.dense_model, self.sample
            made = options.given or plan_storage(
                dense, sample.inputs, storage, include=include, exclude=exclude, name=sample.name
            )
            self.progress("factorize", 0, 1, f"{len(made.layers)} layers")
            model = decompose(dense, made, fill=storage.start == "dense")
            if storage.start == "scratch":
                refresh(model, seed)
            return self._keep_start(model, made, {"calibration": None})

        asked = options.given.to_json() if options.given else [include, exclude]
        inputs = [self.dense_key, repr(storage.unrounded), asked, seed]
        return self.stages.do("factorize", inputs, work, (PLAN_FILE, DECOMPOSED))

    @property
    def _tuned(self) -> Path:
        """Where the fine-tuned model goes: the folder itself, or where what follows finds it."""
        return self.folder if self.options.storage is None else self.folder / TRAINED

    def store(self, tuned: Done, storage: Storage) -> Done:
        """``model.ectk``: the factors of ``trained/`` rounded, trained on and coded; the folder is then a MODEL."""
        checkpoint = self.folder / CHECKPOINT_FILE

        def work() -> Json:
            start = rebuilt(self.sample, self._tuned)
            assert start.plan is not None
            stored, done = train_codes(
                start.build(),
                self.sample,
                storage,
                self.options.tuning,
                teacher=self.teacher,
                checkpoint=checkpoint,
                key=tuned.key,
                progress=self.progress,
            )
            if workers().rank:
                return {}
            payload_bytes = save_stored(self.folder, stored, start.plan, self.sample)
            model = decoded(self.dense_model, stored)
            small = replace(self.sample, plan=start.plan)
            taken = StorageCost(
                payload_bytes,
                stored.numbers,
                onnx_bytes(model, small),
                start.plan.dense_params,
                param_bytes(self.dense_model),
            )
            history = [asdict(epoch) for epoch in done.history]
            return {**self.test_score(model, "stored"), "storage": taken.to_json(), "history": history}

        inputs = [tuned.key, repr(storage), asdict(self.options.tuning)]
        written = (MODEL_FILE, PLAN_FILE, CODES_FILE)
        finished = self.stages.do("store", inputs, work, written, together=True)
        discard(checkpoint)
        return finished

    def train_recipe(self, recipe: Recipe) -> Done:
        """``plan.json`` and ``decomposed/`` by training."""
        options, checkpoint = self.options, self.folder / RECIPE_FILE
        scope = options.scope
        # averaged weights and portions belong to the fine-tuning
        tuning = replace(options.tuning, epochs=options.recipe_epochs, ema=0.0, stages=1)
        inputs = [self.dense_key, repr(recipe), repr(options.selector), repr(scope), asdict(tuning)]

        def work() -> Json:
            asked = Asked(
                self.dense_model,
                self.sample,
                options.selector,
                scope,
                tuning,
                self.calibration,
                checkpoint,
                key_of(*inputs, *self._calibrated_by),
                self.progress,
            )
            made = recipe.start(asked)
            facts = {"name": recipe.name, **made.facts}
            return self._keep_start(made.model, made.plan, {"calibration": None, "recipe": facts})

        written = (PLAN_FILE, DECOMPOSED)
        finished = self.stages.do("recipe", [*inputs, *self._calibrated_by], work, written, together=True)
        discard(checkpoint)
        return finished

    def _keep_start(self, model: nn.Module, chosen: CompressionPlan, facts: Json) -> Json:
        """Score a decomposed model and write it to ``decomposed/``; the first process alone does."""
        if workers().rank:
            return {}
        check_runs(model, self.sample.inputs, f"{self.sample.name}, decomposed,")
        chosen.save(make_folder(self.folder) / PLAN_FILE)
        save_compressed(self.folder / DECOMPOSED, model, chosen, self.sample)
        return {**self.test_score(model, "decomposed"), **facts}

    def decompose(self, planned: Done) -> Done:
        """``decomposed/``: the chains filled, batch norms re-estimated where that helps."""

        def work() -> Json:
            chosen = CompressionPlan.load(self.folder / PLAN_FILE)
            model, calibration = self._decomposed(chosen)
            return self._keep_start(model, chosen, {"calibration": calibration})

        tuning = self.options.tuning
        staged = asdict(tuning) if tuning.stages > 1 else {}
        inputs = [planned.key, *self._calibrated_by, self.options.asymmetric, staged]
        return self.stages.do("decompose", inputs, work, (DECOMPOSED,), together=bool(staged))

    def _decomposed(self, chosen: CompressionPlan) -> tuple[nn.Module, Json | None]:
        """By weights alone, or fitted to the calibration inputs, batch norms re-estimated where that helps."""
        calibration, asymmetric, tuning = self.calibration, self.options.asymmetric, self.options.tuning
        if tuning.stages > 1:
            dense, progress = self.dense_model, self.progress
            return decomposed_in_stages(dense, chosen, self.sample, tuning, calibration, self.folder, progress), None
        if calibration is None:
            return decompose(self.dense_model, chosen, progress=self.progress), None
        model = refit(self.dense_model, chosen, calibration, asymmetric=asymmetric, progress=self.progress)
        model, changed = recalibrate_if_better(model, self.dense_model, first(calibration.inputs, RECALIBRATED))
        facts = {"items": len(calibration.inputs[0]), "asymmetric": asymmetric, "recalibrated": changed}
        return model, facts

    def finetune(self, decomposed: Done) -> Done:
        """The compressed model in the folder itself: fine-tuned, the best epoch by validation score."""
        checkpoint = self.folder / CHECKPOINT_FILE

        def work() -> Json:
            start = rebuilt(self.sample, self.folder / DECOMPOSED)
            assert start.plan is not None
            model = start.build()
            if self.options.storage is not None:
                without_dropped(model, self.options.storage)
            done = finetune(
                model,
                self.sample,
                last_epochs(self.options.tuning, len(start.plan.layers)),
                teacher=self.teacher,
                plan=start.plan if self.options.storage is None else None,
                checkpoint=checkpoint,
                key=decomposed.key,
                progress=self.progress,
            )
            if workers().rank:
                return {}
            save_compressed(self._tuned, done.model, start.plan, self.sample)
            history = [asdict(epoch) for epoch in done.history]
            before = {key: decomposed.result.get(key) for key in SCORES}
            reached = self.test_score(done.model, "fine-tuned") if history else before
            training = {"epochs": len(history), "best_epoch": done.best_epoch, "history": history} if history else None
            return {**reached, "training": training}

        files = (MODEL_FILE, PLAN_FILE, WEIGHTS_FILE) if self.options.storage is None else (TRAINED,)
        inputs = [decomposed.key, asdict(self.options.tuning), *self._taught]
        finished = self.stages.do("finetune", inputs, work, files, together=True)
        discard(checkpoint)
        return finished

    def export(self, role: str, upstream: Done) -> Done:
        """``dense.onnx`` or ``model.onnx`` for each target, equal to PyTorch in numbers and in the task score.

        A target may fail, unless it is the one that is measured or bundled; its result is then the reason.
        """
        files = {target: self.exported_file(role, target) for target in self.options.targets}

        def work() -> Json:
            known = SplitScore.from_json(upstream.result.get("scored"))
            return self._all_exported(role, list(files), known)

        written = tuple(f"{file}{ending}" for file in files.values() for ending in ("", ".json", ".golden.npz"))
        written += tuple(part.name for target, file in files.items() for part in target_named(target).parts(Path(file)))
        return self.stages.do(f"export_{role}", [upstream.key, self.options.targets], work, written)

    def _all_exported(self, role: str, targets: list[str], known: SplitScore | None) -> Json:
        needed = {targets[0], bundled_target(targets, self.options.platform)}
        made: Json = {}
        errors: list[ExportError] = []
        for target in targets:
            try:
                made[target] = self._exported(role, target, known)
            except ExportError as error:
                made[target] = {"failed": str(error)}
                errors += [error] if target in needed else []
        if errors:  # only now, so that the other files are there
            raise errors[0]
        return made

    def _exported(self, role: str, target: str, known: SplitScore | None) -> Json:
        sample = self.sample if role == "dense" else rebuilt(self.sample, self.folder)
        name = f"export {role} to {target}"
        self.progress(name, 0, 1, "")
        artifact = export(
            sample.model(),
            sample,
            self.folder,
            target=target,
            stem=STEMS[role],
            options=ExportOptions(replaces="anything" if self.force else "ours"),
            known_score=known,
            progress=_renamed(self.progress, f"{name}, score"),
        )
        scored = artifact.score.pair[1] if artifact.score and artifact.score.pair else None
        reached = {"accuracy": scored.value, "scored": scored.to_json()} if scored else dict.fromkeys(SCORES)
        return {"file": artifact.path.name, **reached}

    def profile(self, dense: Done, compressed: Done) -> Done:
        """Each model alone, then both taking turns, with one thread and with all unless said, on the first target."""
        options, target = self.options, self.options.targets[0]
        files = {role: self.exported_file(role, target) for role in STEMS}
        paths = {role: self.folder / file for role, file in files.items()}

        def work() -> Json:
            device = device_named(options.device, options.place)
            effort = Effort((options.threads or (1,))[0], seconds=options.seconds)
            found = measure(
                paths["compressed"],
                paths["dense"],
                device,
                effort,
                threads=options.threads[1:] if options.threads else None,
                progress=self.progress,
            )
            assert found.baseline is not None
            assert found.comparison is not None
            found.profile.save(profile_path(paths["compressed"]))
            found.baseline.save(profile_path(paths["dense"]))
            write_json(self.folder / COMPARISON_FILE, found.comparison.to_json())
            return {"files": files, "threads": [other.summary() for other in found.more]}

        written = (COMPARISON_FILE, *(profile_path(Path(file)).name for file in files.values()))
        place = [options.device, repr(options.place), options.threads, options.seconds]
        return self.stages.do("profile", [dense.key, compressed.key, *place], work, written)

    def report(self, document: Json, upstream: str) -> Done:
        """``report.html``, ``report.md`` and ``report.json``."""

        def work() -> Json:
            write_report(document, self.folder)
            return {}

        return self.stages.do("report", [upstream, document], work, (HTML_NAME, MARKDOWN_NAME, JSON_NAME))

    def bundle(self, measured: Done) -> Done:
        """``bundle/`` of the compressed model on the first target that the platform runs."""
        target = bundled_target(self.options.targets, self.options.platform)

        def work() -> Json:
            made = self.folder / BUNDLE
            file = self.folder / self.exported_file("compressed", target)
            manifest = bundle(file, made, platform=self.options.platform, force=self.force)
            return {"manifest": f"{made.name}/{manifest.name}"}

        return self.stages.do("bundle", [measured.key, self.options.platform], work, (BUNDLE,))


def _sources(sample: Sample) -> Iterator[str]:
    """Where a model comes from, and where what it was made from does."""
    yield sample.source
    if sample.dense is not None:
        yield from _sources(sample.dense)


def _renamed(progress: Progress, name: str) -> Progress:
    """The same listener, told another name for the work."""

    def listen(_name: str, done: int, total: int, detail: str) -> None:
        progress(name, done, total, detail)

    return listen
