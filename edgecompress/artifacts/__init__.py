"""Artifact: an exported file and the facts about it, in a JSON file beside it.

``model.onnx`` has ``model.onnx.json`` (the facts) and ``model.onnx.golden.npz`` (inputs and what PyTorch
gave, for checks on any machine).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from edgecompress.artifacts.golden import Arrays, read_golden, write_golden
from edgecompress.artifacts.proofs import Approximation, Parity, Scored, TensorSpec
from edgecompress.errors import FileError, printable
from edgecompress.files import Json, check_version, read_json, sha256, write_json
from edgecompress.plans import CompressionPlan, Cost

__all__ = [
    "LIBRARIES",
    "SQNR_OF_EQUAL_DB",
    "Approximation",
    "Arrays",
    "Artifact",
    "Parity",
    "Scored",
    "TensorSpec",
    "facts_path",
    "golden_path",
    "profile_path",
    "read_golden",
    "versions",
    "write_golden",
]

VERSION = 2
KIND = "edgecompress.artifact"
SQNR_OF_EQUAL_DB = 300.0
LIBRARIES = ("torch", "numpy", "onnx", "onnxscript", "onnxruntime", "onnxsim", "safetensors")


@dataclass(frozen=True, slots=True)
class Artifact:
    """An exported file. :meth:`load` reads one, and proves that it is unchanged.

    Args:
        target: its format, a name in ``TARGETS``.
        path: of the file.
        size_bytes: of the file and its ``parts``.
        sha256: of the file.
        model: the sample's name.
        source: the MODEL it was exported from.
        inputs: with names, types and shapes, as the file has them.
        outputs: of the same kind.
        parity: against the PyTorch model it was made from, at each batch size; empty: its runtime is not for here.
        graph: what the target reports of the file: opset, node counts.
        cost: of the PyTorch model.
        golden_sha256: of the golden pair beside the file.
        score: the task score; None without data.
        plan: how the model was compressed; None: dense.
        preprocessing: what an app has to do to its input.
        versions: of the libraries that made it.
        precision: fp32, fp16 or int8.
        parts: names and digests of other files it needs to run.
        approximation: of the compressed model against the dense one.
        notices: what a user should know of how the file came about, in words.
    """

    target: str
    path: Path
    size_bytes: int
    sha256: str
    model: str
    source: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity: tuple[Parity, ...]
    graph: Json
    cost: Cost
    golden_sha256: str
    score: Scored | None = None
    plan: CompressionPlan | None = None
    preprocessing: Json = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    precision: str = "fp32"
    parts: dict[str, str] = field(default_factory=dict)
    approximation: Approximation | None = None
    notices: tuple[str, ...] = ()

    @property
    def max_abs_error(self) -> float | None:
        """The largest over all checked batch sizes."""
        return max((parity.max_abs_error for parity in self.parity), default=None)

    @property
    def sqnr_db(self) -> float | None:
        """The smallest over all checked batch sizes."""
        return min((parity.sqnr_db for parity in self.parity), default=None)

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is needed to run it."""
        return (self.path, *(self.path.with_name(name) for name in self.parts))

    def to_json(self) -> Json:
        """A JSON object with kind and version; the path is the file's name alone."""
        return {
            "kind": KIND,
            "version": VERSION,
            "target": self.target,
            "file": self.path.name,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "model": self.model,
            "source": self.source,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "parity": [parity.to_json() for parity in self.parity],
            "graph": self.graph,
            "cost": self.cost.to_json(),
            "golden_sha256": self.golden_sha256,
            "score": self.score.to_json() if self.score else None,
            "plan": self.plan.to_json() if self.plan else None,
            "preprocessing": self.preprocessing,
            "versions": self.versions,
            "precision": self.precision,
            "parts": self.parts,
            "approximation": self.approximation.to_json() if self.approximation else None,
            "notices": list(self.notices),
        }

    def summary(self) -> Json:
        """What ``run --json`` prints of an artifact."""
        return {
            "target": self.target,
            "precision": self.precision,
            "status": "verified" if self.parity else "not run here",
            "path": str(self.path),
            "parts": list(self.parts),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "max_abs_error": self.max_abs_error,
            "sqnr_db": self.sqnr_db,
            "score": self.score.to_json() if self.score else None,
            "approximation": self.approximation.to_json() if self.approximation else None,
            "graph": self.graph,
            "notices": list(self.notices),
        }

    def save(self) -> None:
        """Write the facts beside the file."""
        write_json(facts_path(self.path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Artifact:
        """Read the facts of the artifact at ``path`` and prove that the file is still the one they describe.

        Raises:
            FileError: file or facts are missing or malformed, or the file was changed after its export.
        """
        path = Path(path)
        if not path.exists():
            raise FileError.not_exported(path)
        facts = facts_path(path)
        if not facts.is_file():
            raise FileError(
                f"{path}: {facts.name} is not beside it, as it is beside all that `edgecompress export` has written"
            )
        artifact = _from_json(facts, path)
        for file, digest in zip(artifact.files, (artifact.sha256, *artifact.parts.values()), strict=True):
            if not file.exists() or sha256(file) != digest:
                raise FileError(f"{file}: changed or truncated after its export (its sha256 differs); export it again")
        return artifact

    def golden(self) -> tuple[Arrays, Arrays]:
        """The golden inputs and PyTorch's outputs, by tensor name.

        Raises:
            FileError: the pair is missing, or was changed after the export.
        """
        pair = golden_path(self.path)
        if not pair.is_file() or sha256(pair) != self.golden_sha256:
            raise FileError(f"{pair}: missing, or changed after the export; export the model again")
        return read_golden(pair)


def _from_json(facts: Path, path: Path) -> Artifact:
    document = read_json(facts)
    try:
        check_version(document, KIND, VERSION)
        _check_texts(document)
        plan = document["plan"]
        return Artifact(
            target=document["target"],
            path=path,
            size_bytes=int(document["size_bytes"]),
            sha256=document["sha256"],
            model=document["model"],
            source=document["source"],
            inputs=tuple(TensorSpec.from_json(spec) for spec in document["inputs"]),
            outputs=tuple(TensorSpec.from_json(spec) for spec in document["outputs"]),
            parity=tuple(Parity.from_json(parity) for parity in document["parity"]),
            graph=document["graph"],
            cost=Cost.from_json(document["cost"]),
            golden_sha256=document["golden_sha256"],
            score=Scored.from_json(document["score"]) if document["score"] else None,
            plan=CompressionPlan.from_json(plan) if plan else None,
            preprocessing=document["preprocessing"],
            versions=document["versions"],
            precision=document["precision"],
            parts=dict(document["parts"]),
            approximation=Approximation.from_json(document["approximation"]) if document["approximation"] else None,
            notices=tuple(document.get("notices", ())),
        )
    except FileError as error:
        raise FileError(f"{facts}: {error}") from None
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise FileError(f"{facts}: field missing or malformed: {printable(error)}") from None


def _check_texts(document: Json) -> None:
    """Names and digests are text, other files lie beside this one; else TypeError or ValueError."""
    for key in ("target", "model", "source", "precision", "sha256", "golden_sha256"):
        if not isinstance(document[key], str):
            raise TypeError(f"{key} is no text")
    for key in ("preprocessing", "versions"):
        if not isinstance(document[key], dict):
            raise TypeError(f"{key} is no object")
    for name, digest in document["parts"].items():
        if name != Path(name).name or not isinstance(digest, str):
            raise ValueError(f"{name!r} is no file beside this one")


def facts_path(path: Path) -> Path:
    """Where the facts about ``path`` are."""
    return path.with_name(path.name + ".json")


def golden_path(path: Path) -> Path:
    """Where the golden pair of ``path`` is."""
    return path.with_name(path.name + ".golden.npz")


def profile_path(path: Path) -> Path:
    """Where the profile of ``path`` is, once it was measured."""
    return path.with_name(path.name + ".profile.json")


def versions(*others: str) -> dict[str, str]:
    """This package's version and those of the libraries that shape an artifact, ``others`` (distributions) too."""
    from edgecompress import __version__

    return {"edgecompress": __version__} | {name: version(name) for name in (*LIBRARIES, *others)}
