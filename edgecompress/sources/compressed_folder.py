"""A compressed model on disk: a folder with ``model.json``, ``plan.json`` and ``model.safetensors``.

``model.json`` names the MODEL it was made from, whose code rebuilds the structure; plan and weights do the rest,
bit for bit. A model stored by a codec has ``model.ectk`` instead of the safetensors. ``model.json`` holds the digests
of both files beside it and the weights' types; folders that were written before it did still load. What this user
compressed here bears a seal (``sealing.py``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from edgecompress.codecs.payload import SUFFIX, Stored, load, save
from edgecompress.decomposing import decompose
from edgecompress.errors import FileError, ModelError, printable
from edgecompress.files import (
    Json,
    check_version,
    load_weights,
    make_folder,
    read_json,
    save_weights,
    sha256,
    write_json,
)
from edgecompress.models import Sample, check_runs, put_state
from edgecompress.plans import CompressionPlan
from edgecompress.sources import resolve_recorded, sealing, source_of
from edgecompress.storing import decoded

VERSION = 1
KIND = "edgecompress.model"
MODEL_FILE = sealing.MODEL_FILE
PLAN_FILE, WEIGHTS_FILE, CODES_FILE = "plan.json", "model.safetensors", f"model{SUFFIX}"


class CompressedFolder:
    """The folder: data, and the name of what it was made from, whose code runs only if it may."""

    name = "folder"
    form = "a compressed-model folder"
    summary = "FOLDER: what `compress` wrote: a plan, weights, and the name of the model it was made from."
    runs_code = False

    def matches(self, text: str) -> bool:
        """Any folder, which may be named like anything else; an empty name is none."""
        try:
            return bool(text.strip()) and Path(text).is_dir()
        except OSError:  # a name that is too long, or a folder that may not be looked into
            return False

    def files(self, text: str) -> tuple[Path, ...]:
        """All that lie in it."""
        return tuple(file for file in Path(text).iterdir() if file.is_file())

    def resolve(self, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
        """What it was made from, with the folder's plan and weights."""
        return load_compressed(Path(text), trust=trust, above=above)


def save_compressed(folder: Path, model: nn.Module, plan: CompressionPlan, sample: Sample) -> None:
    """Write ``model`` (= ``sample``'s model, compressed by ``plan``) into ``folder``; ``model.json`` comes last."""
    make_folder(folder)
    plan.save(folder / PLAN_FILE)
    state = model.state_dict()
    save_weights(folder / WEIGHTS_FILE, state)
    _save_model_file(folder, sample, WEIGHTS_FILE, dtypes=_dtypes(state))


def save_stored(folder: Path, stored: Stored, plan: CompressionPlan, sample: Sample) -> int:
    """Write a model stored by a codec into ``folder``; returns the bytes of its file of codes."""
    make_folder(folder)
    plan.save(folder / PLAN_FILE)
    size = save(stored, folder / CODES_FILE)
    _save_model_file(folder, sample, CODES_FILE)
    return size


def _save_model_file(folder: Path, sample: Sample, weights: str, **more: Json) -> None:
    document = {
        "kind": KIND,
        "version": VERSION,
        "name": sample.name,
        "source": sample.source,
        "plan": PLAN_FILE,
        "weights": weights,
        "sha256": {name: sha256(folder / name) for name in (PLAN_FILE, weights)},
        **_digest_of(sample.source),
        **more,
    }
    write_json(folder / MODEL_FILE, sealing.sealed(folder, document, sample))


def _digest_of(source: str) -> Json:
    """The digest of the file that a MODEL is read from as data, such as an .onnx; code may be edited."""
    file = _data_file(source)
    return {} if file is None else {"source_sha256": _digest(file)}


def _digest(file: Path) -> str:
    """Of a file, and of the weights that exporters put beside a large .onnx."""
    return " ".join(sha256(part) for part in (file, file.with_name(f"{file.name}.data")) if part.is_file())


def _data_file(source: str) -> Path | None:
    try:
        kind = source_of(source)
    except ModelError:
        return None
    files = kind.files(source) if not kind.runs_code and Path(source).is_absolute() else ()
    return files[0] if len(files) == 1 and files[0].is_file() else None


def _dtypes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """How many tensors there are of each type."""
    return dict(sorted(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in state.values()).items()))


@dataclass(frozen=True, slots=True)
class Recorded:
    """What ``model.json`` records: the source, which file holds the weights, digests by file name, tensors by type.

    ``digests`` and ``dtypes`` are None in a folder that was written before they were recorded, ``dtypes`` also where a
    codec's file records them itself. ``origin`` is the digest of the file that the source names, None where it is none.
    """

    source: str
    weights: str
    digests: dict[str, str] | None
    dtypes: dict[str, int] | None
    origin: str | None = None

    @classmethod
    def load(cls, file: Path) -> Recorded:
        """Read ``model.json``.

        Raises:
            FileError: missing or malformed.
        """
        document = read_json(file)
        try:
            check_version(document, KIND, VERSION)
            return cls._from_json(document)
        except FileError as error:
            raise FileError(f"{file}: {error}") from None

    @classmethod
    def _from_json(cls, document: Json) -> Recorded:
        source, weights = document.get("source"), document.get("weights", WEIGHTS_FILE)
        digests, dtypes = document.get("sha256"), document.get("dtypes")
        if not isinstance(source, str):
            raise FileError(f"its source is {printable(source)}, the name of a model was expected")
        if weights not in (WEIGHTS_FILE, CODES_FILE) or document.get("plan", PLAN_FILE) != PLAN_FILE:
            named = f"{printable(document.get('plan'))} and {printable(weights)}"
            raise FileError(f"names {named}; {PLAN_FILE} and {WEIGHTS_FILE} or {CODES_FILE} were expected")
        if digests is not None and (not isinstance(digests, dict) or set(digests) != {PLAN_FILE, weights}):
            raise FileError(f"its sha256 are not those of {PLAN_FILE} and {weights}")
        if dtypes is not None and not isinstance(dtypes, dict):
            raise FileError("its dtypes are no object")
        origin = document.get("source_sha256")
        return cls(source, weights, digests, dtypes, None if origin is None else str(origin))

    def check_file(self, file: Path) -> None:
        """Prove that a file beside ``model.json`` is the one that was written with it.

        Raises:
            FileError: it is not.
        """
        if self.digests is not None and file.is_file() and sha256(file) != self.digests[file.name]:
            raise FileError(
                f"{file}: changed or damaged since it was written (its sha256 is not the one in {MODEL_FILE}); "
                "copy the folder again, or make it again with `edgecompress compress`"
            )

    def check_origin(self, folder: Path) -> None:
        """Prove that the file that the model was made from is as it was.

        Raises:
            FileError: it is not.
        """
        file = _data_file(self.source) if self.origin is not None else None
        if file is not None and _digest(file) != self.origin:
            raise FileError(
                f"{folder}: was made from {printable(file)}, which has changed since (its sha256 is not the one in "
                f"{MODEL_FILE}); put that file back, or make the folder again with `edgecompress compress`"
            )

    def check_dtypes(self, file: Path, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Prove that weights are of the recorded types, and floating where the model's are.

        Raises:
            FileError: they are not.
        """
        if self.dtypes is not None and _dtypes(state) != self.dtypes:
            raise FileError(f"{file}: holds {_counted(_dtypes(state))}, but {_counted(self.dtypes)} were written")
        for name in state.keys() & expected.keys():
            stored, wanted = state[name].dtype, expected[name].dtype
            if stored != wanted and not (stored.is_floating_point and wanted.is_floating_point):
                raise FileError(f"{file}: {name} is {stored}, the model has {wanted} there; make it again")


def _counted(dtypes: Mapping[str, object]) -> str:
    return ", ".join(f"{printable(count)} tensors of {printable(dtype)}" for dtype, count in dtypes.items())


def refuse_non_finite(file: Path, state: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> None:
    """NaN and infinity are refused, but for a tensor that has them in the dense model too, such as a mask of -inf.

    Raises:
        FileError: the name of the tensor.
    """
    for name, tensor in state.items():
        if _is_finite(tensor) or (name in dense and not _is_finite(dense[name])):
            continue
        raise FileError(f"{file}: {name} holds NaN or infinity; make it again with `edgecompress compress`")


def _is_finite(tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all())


def load_compressed(folder: Path, *, trust: bool = False, above: tuple[Path, ...] = ()) -> Sample:
    """The sample in a compressed-model folder, with its plan; the model is built when needed.

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
    recorded = Recorded.load(file)
    recorded.check_origin(folder)
    return rebuilt(resolve_recorded(recorded.source, str(folder), trust=trust, above=(*above, whole)), folder)


def rebuilt(dense: Sample, folder: Path) -> Sample:
    """``dense`` with the plan and the weights in ``folder``.

    Raises:
        FileError: a file is missing, malformed, or not the one that ``model.json`` was written with.
    """
    recorded = Recorded.load(folder / MODEL_FILE)
    recorded.check_file(folder / PLAN_FILE)
    plan, weights = CompressionPlan.load(folder / PLAN_FILE), folder / recorded.weights
    dense = replace(dense, adapters=plan.adapters)
    if recorded.weights == CODES_FILE:
        build = partial(_decode, dense, recorded, weights)
    else:
        build = partial(_build, dense, plan, recorded, weights)
    return replace(dense, source=str(folder.resolve()), build=build, plan=plan, dense=dense, adapters=())


def _decode(dense: Sample, recorded: Recorded, codes: Path) -> nn.Module:
    recorded.check_file(codes)
    built = dense.built()
    model = decoded(built, load(codes))
    refuse_non_finite(codes, model.state_dict(), built.state_dict())
    return model


def _build(dense: Sample, plan: CompressionPlan, recorded: Recorded, weights: Path) -> nn.Module:
    state = load_weights(weights)
    recorded.check_file(weights)
    built = dense.built()
    model = decompose(built, plan, fill=False)
    if set(state) != set(model.state_dict()):
        check_runs(model, dense.inputs, dense.name)  # registers the buffers that a model makes when it first runs
    recorded.check_dtypes(weights, state, model.state_dict())
    refuse_non_finite(weights, state, built.state_dict())
    try:
        put_state(model, state)
    except RuntimeError as error:
        second = str(error).strip().splitlines()[1:2] or [str(error)]
        raise ModelError(f"{weights}: does not fit the plan beside it: {second[0].strip()[:200]}") from None
    return model
