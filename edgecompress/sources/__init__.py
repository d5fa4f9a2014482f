"""resolve(): what MODEL may be. One file and one line in ``SOURCES`` each."""

from __future__ import annotations

import difflib
from pathlib import Path

from edgecompress.errors import ModelError, printable
from edgecompress.models import Sample
from edgecompress.sources.base import Source
from edgecompress.sources.proving import Known, only
from edgecompress.sources.python_file import code_digest
from edgecompress.sources.samples import is_whole, presets, sample_facts, sample_file, sample_weights
from edgecompress.sources.weights_files import described, is_weights
from edgecompress.tables import Table

SOURCES: Table[Source] = Table(
    "edgecompress.sources",
    sample="samples:ShippedSample",
    folder="compressed_folder:CompressedFolder",
    file="python_file:PythonFile",
    onnx="onnx_file:OnnxFile",
    program="program_file:ProgramFile",
    module="module:ImportableModule",
)
"""In the order in which they are tried: the first that matches is the kind of a MODEL."""

__all__ = [
    "SOURCES",
    "Source",
    "code_digest",
    "folder_of",
    "is_whole",
    "presets",
    "resolve",
    "resolve_recorded",
    "sample_facts",
    "sample_file",
    "sample_weights",
    "source_of",
]


def resolve(reference: str | Path, *, trust: bool = False) -> Sample:
    """The sample that ``reference`` names, without building its model.

    Giving a file or a module means trusting its code; a folder may have come from anywhere, so the code it names runs
    only if it is a shipped sample, if this user compressed the folder here from the same code, or with ``trust``.

    Args:
        reference: ``file.py``, ``file.py:name``, ``package.module:name``, the name of a shipped sample, or a
            compressed-model folder.
        trust: run the code that a folder says it was made from.

    Returns:
        The sample; ``sample.model()`` builds and proves the model, ``sample.inputs`` are its example's tensors, batch
        first.

    Raises:
        ModelError: nothing of that name, or not a model.
        FileError: the weights of a shipped sample or a folder are damaged.
    """
    text = str(reference)
    if "://" in text:
        raise ModelError(f"{printable(text)}: is an address, and nothing is fetched; download the file and name that")
    return source_of(text).resolve(text, trust=trust)


def source_of(text: str) -> Source:
    """The kind of MODEL that ``text`` is. It is decided here alone.

    Raises:
        ModelError: nothing that could be a model.
    """
    for source in SOURCES.values():
        if source.matches(text):
            return source
    raise ModelError(_unknown(text))


def resolve_recorded(text: str, where: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
    """The sample that a file names as its source; its code runs only if it is shipped here, trusted, or under a seal.

    Args:
        text: the MODEL in the file.
        where: the file or folder, for messages.
        trust: whether to run code that did not come with this package.
        above: folders that name this MODEL in turn, outermost first; their seals have to hold.

    Raises:
        ModelError: the code is not trusted, or not there.
    """
    shown = printable(text)
    try:
        source = source_of(text)
    except ModelError:
        raise ModelError(f"{where}: was made from {shown}, which is no model here; put it back where it was") from None
    if not source.runs_code or trust:
        return source.resolve(text, trust=trust, above=above)
    from edgecompress.sources.sealing import unsealed

    modules = unsealed(above)
    changed = "" if modules is None else next((one.file for one in modules.values() if one.changed), "")
    if modules is None or changed:
        since = f" ({printable(changed)} has changed since you compressed it here)" if changed else ""
        raise ModelError(
            f"{where}: was made from {shown}, whose code must run to rebuild it{since}; "
            "add --trust if you trust that code"
        )
    return _as_sealed(source, text, modules, above)


def _as_sealed(source: Source, text: str, modules: dict[str, Known], above: tuple[Path, ...]) -> Sample:
    with only(modules):
        try:
            return source.resolve(text, trust=False, above=above)
        except ModelError as error:
            raise ModelError(f"{error}; add --trust to load its code as it is now") from error


def folder_of(text: str) -> Path | None:
    """The compressed-model folder that a MODEL names, if it is one."""
    try:
        source = source_of(text)
    except ModelError:
        return None
    return Path(text).resolve() if source is SOURCES["folder"] else None


def _unknown(text: str) -> str:
    if is_weights(text):
        return described(text)
    close = difflib.get_close_matches(text, sorted(sample_facts()), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    *forms, last = (source.form for source in SOURCES.values())
    return f"no model {text!r}{hint} A model is {', '.join(forms)} or {last}"
