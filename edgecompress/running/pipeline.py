"""A run's context: one model on its way through the stages, in one folder that remembers what is finished.

::

    out/
      model.json plan.json model.safetensors   the compressed model: give the folder as MODEL
      dense.onnx model.onnx (+ .json, .golden.npz, .profile.json)
      decomposed/                               the compressed model before fine-tuning
      pareto/1 ...                              other plans of the front, each a MODEL like the folder
      comparison.json report.json report.html report.md
      bundle/                                   what an app ships; of several platforms bundle_NAME/ each
      stages/                                   which stages are finished, with their results
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import nn

from edgecompress.artifacts import versions
from edgecompress.calibrating import Calibration, calibration_of
from edgecompress.exporting import file_name
from edgecompress.files import Json
from edgecompress.models import SPLITS, Sample, state_digest
from edgecompress.models.datasets import fingerprint, inputs_digest, origin, size
from edgecompress.planning import Survey, survey
from edgecompress.progress import Progress, silent
from edgecompress.running.claiming import TRAINED
from edgecompress.running.options import Options
from edgecompress.running.resuming import Stages, key_of
from edgecompress.scoring import split_score
from edgecompress.settings import Precision
from edgecompress.sources import code_digest
from edgecompress.targets import target_named
from edgecompress.targets.shared import Traces

SCORES = ("accuracy", "scored")
"""Keys in the result of a stage that scores: the score, and what it takes to pair it with another."""
STEMS = {"dense": "dense", "compressed": "model"}
"""The names of both models' files in the folder, without what depends on the target."""


@dataclass(frozen=True)
class Pipeline:
    """What the stages share; each is a function of it and of the stages before (:mod:`~edgecompress.running`).

    Whatever is computed here is computed once.

    Args:
        sample: the model, its example input and its data.
        folder: where everything is written; it need not be there.
        options: what the stages are to do.
        progress: listens to long work.
        force: files and results of others in the folder are replaced.
        traces: what was traced of the dense model so far.
    """

    sample: Sample
    folder: Path
    options: Options
    progress: Progress = silent
    force: bool = False
    traces: Traces = field(default_factory=Traces, repr=False, compare=False)

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

    @cached_property
    def survey(self) -> Survey:
        """The dense model's layers: which may be replaced, and why the others may not."""
        return survey(self.dense_model, self.sample.inputs, self.options.scope)

    @property
    def teacher(self) -> nn.Module:
        """What fine-tuning learns from."""
        return self.dense_model if self.options.teacher is None else self.options.teacher.model

    @property
    def teacher_key(self) -> list[str]:
        """Identifies another teacher than the dense model; empty for that."""
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
        """Identifies the three splits, or what there is without labels."""
        if self.sample.splits is None:
            return [inputs_digest(self.sample.unlabelled)] if self.sample.unlabelled else []
        return [fingerprint(self.sample.data(split), inputs_too=split != "train") for split in SPLITS]

    @cached_property
    def calibration(self) -> Calibration | None:
        """The unlabelled inputs, or None without data or where the options want none."""
        if (self.data is None and self.sample.unlabelled is None) or self.options.calibrate == 0:
            return None
        return calibration_of(self.sample, self.options.calibrate, self.options.tuning.seed)

    @property
    def calibration_key(self) -> list[object]:
        """Identifies the calibration inputs."""
        return [self.options.calibrate, self.options.tuning.seed, self.data_key]

    @property
    def tuned_folder(self) -> Path:
        """Where the fine-tuned model goes: the folder itself, or where storing finds it."""
        return self.folder if self.options.storage is None else self.folder / TRAINED

    def precision(self, role: str) -> Precision:
        """Of a model's files: the dense one's stay in float32."""
        return self.options.quantize if role == "compressed" else "fp32"

    def exported_file(self, role: str, target: str) -> str:
        """The name of a model's file in the folder."""
        return file_name(target_named(target), STEMS[role], self.precision(role))

    def test_score(self, model: nn.Module, what: str) -> Json:
        """Score on the whole test split, and as it can be paired with others; both None without data."""
        if self.data is None:
            return dict.fromkeys(SCORES)
        found = split_score(model, self.sample, progress=renamed(self.progress, f"score {what}"))
        return {"accuracy": found.value, "scored": found.to_json()}


def renamed(progress: Progress, name: str) -> Progress:
    """The same listener with another name for the work."""

    def listen(_name: str, done: int, total: int, detail: str) -> None:
        progress(name, done, total, detail)

    return listen
