"""A compressed model on disk: a folder with ``model.json``, ``plan.json`` and ``model.safetensors``.

``model.json`` names the MODEL it was made from, whose code rebuilds the structure; plan and weights do the rest,
bit for bit. A model stored by a codec has ``model.ectk`` instead of the safetensors.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from edgecompress.codecs.payload import SUFFIX, Stored, load, save
from edgecompress.decomposing import decompose
from edgecompress.errors import FileError, ModelError, printable
from edgecompress.files import Json, check_version, load_weights, make_folder, read_json, save_weights, write_json
from edgecompress.models import Sample, check_runs
from edgecompress.plans import CompressionPlan
from edgecompress.resolving import parse, runs_code, sample_of
from edgecompress.storing import decoded

VERSION = 1
KIND = "edgecompress.model"
MODEL_FILE, PLAN_FILE, WEIGHTS_FILE, CODES_FILE = "model.json", "plan.json", "model.safetensors", f"model{SUFFIX}"


def save_compressed(folder: Path, model: nn.Module, plan: CompressionPlan, sample: Sample) -> None:
    """Write ``model`` (= ``sample``'s model, compressed by ``plan``) into ``folder``; ``model.json`` comes last."""
    make_folder(folder)
    plan.save(folder / PLAN_FILE)
    save_weights(folder / WEIGHTS_FILE, model.state_dict())
    _save_model_file(folder, sample, WEIGHTS_FILE)


def save_stored(folder: Path, stored: Stored, plan: CompressionPlan, sample: Sample) -> int:
    """Write a model stored by a codec into ``folder``; returns the bytes of its file of codes."""
    make_folder(folder)
    plan.save(folder / PLAN_FILE)
    size = save(stored, folder / CODES_FILE)
    _save_model_file(folder, sample, CODES_FILE)
    return size


def _save_model_file(folder: Path, sample: Sample, weights: str) -> None:
    write_json(
        folder / MODEL_FILE,
        {
            "kind": KIND,
            "version": VERSION,
            "name": sample.name,
            "source": sample.source,
            "plan": PLAN_FILE,
            "weights": weights,
        },
    )


def load_compressed(folder: Path, *, trust: bool = False, above: tuple[Path, ...] = ()) -> Sample:
    """The sample in a compressed-model folder, with its plan; the model is built when asked for.

    ``above`` are the folders that were made, one from the other, from this one.

    Raises:
        FileError: a file is missing or malformed.
        ModelError: the code it was made from is not there, or not trusted.
    """
    file = folder / MODEL_FILE
    if not file.is_file():
        raise ModelError(
            f"{folder}: holds no {MODEL_FILE}, so it is no compressed model; `edgecompress compress` makes one"
        )
    whole = folder.resolve()
    if whole in above:
        raise ModelError(f"{folder}: was made, in a circle, from itself")
    source = _source(read_json(file), file)
    return rebuilt(resolve_recorded(source, str(folder), trust=trust, above=(*above, whole)), folder)


def rebuilt(dense: Sample, folder: Path) -> Sample:
    """``dense`` with the plan and the weights in ``folder``."""
    plan = CompressionPlan.load(folder / PLAN_FILE)
    if read_json(folder / MODEL_FILE).get("weights") == CODES_FILE:
        build = partial(_decode, dense, folder / CODES_FILE)
    else:
        build = partial(_build, dense, plan, folder / WEIGHTS_FILE)
    return replace(dense, source=str(folder.resolve()), build=build, plan=plan, dense=dense)


def resolve_recorded(source: str, where: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
    """The sample that a file names as its source; its code runs only if it is shipped here, or trusted.

    Raises:
        ModelError: the code is not trusted, or not there.
    """
    shown = printable(source)
    try:
        reference = parse(source)
    except ModelError:
        raise ModelError(f"{where}: was made from {shown}, which is no model here; put it back where it was") from None
    if runs_code(reference) and not trust:
        raise ModelError(
            f"{where}: was made from {shown}, whose code must run to rebuild it; add --trust if you trust that code"
        )
    return sample_of(reference, source, trust=trust, above=above)


def _source(document: Json, file: Path) -> str:
    try:
        check_version(document, KIND, VERSION)
    except FileError as error:
        raise FileError(f"{file}: {error}") from None
    source = document.get("source")
    if not isinstance(source, str):
        raise FileError(f"{file}: its source is {printable(source)}, the name of a model was expected")
    return source


def _decode(dense: Sample, codes: Path) -> nn.Module:
    return decoded(dense.build(), load(codes))


def _build(dense: Sample, plan: CompressionPlan, weights: Path) -> nn.Module:
    model = decompose(dense.build(), plan, fill=False)
    state = load_weights(weights)
    if set(state) != set(model.state_dict()):
        check_runs(model, dense.inputs, dense.name)  # registers the buffers that a model makes when it first runs
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        second = str(error).strip().splitlines()[1:2] or [str(error)]
        raise ModelError(f"{weights}: does not fit the plan beside it: {second[0].strip()[:200]}") from None
    return model
