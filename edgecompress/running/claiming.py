"""Whose a folder is: a pipeline claims the folder it works in, and takes no other model's and no file it did not write.

A claimed folder is the pipeline's own: what lies there under the names it writes is replaced when it is made anew. In a
folder that no pipeline has claimed, only documents of our kind are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import FileError, printable
from edgecompress.files import Json, make_folder, write_json
from edgecompress.finetuning.checkpoints import is_checkpoint
from edgecompress.plans import KIND as PLAN_KIND
from edgecompress.platforms import PLATFORMS
from edgecompress.profiling.comparisons import COMPARISON_KIND
from edgecompress.recipes.staged import CHECKPOINT
from edgecompress.replacing import check_replaceable, document_in, is_kind, is_report_page, nothing
from edgecompress.reporting import HTML_NAME, JSON_NAME, MARKDOWN_NAME
from edgecompress.reporting import KIND as REPORT_KIND
from edgecompress.running.history import FILE as TRIED_FILE
from edgecompress.running.history import KIND as TRIED_KIND
from edgecompress.running.resuming import KIND as STAGE_KIND
from edgecompress.running.resuming import STAGES, Stages
from edgecompress.sources.compressed_folder import CODES_FILE, MODEL_FILE, PLAN_FILE, WEIGHTS_FILE
from edgecompress.sources.compressed_folder import KIND as MODEL_KIND

VERSION = 1
KIND = "edgecompress.folder"
OWNER_FILE = "made_from.json"
"""In the folder of stages, where each finished one has a file too."""
COMPARISON_FILE, DECOMPOSED, TRAINED, BUNDLE = "comparison.json", "decomposed", "trained", "bundle"
PARETO = "pareto"
"""Other plans of the front, each in a numbered folder that is a MODEL."""
CONFIG_FILE = "run.toml"
"""The options of a run as they were typed; the command line writes it."""
CHECKPOINT_FILE, RECIPE_FILE = "checkpoint.pt", "recipe.pt"

OURS: dict[str, Callable[[Path], bool]] = {
    PLAN_FILE: is_kind(PLAN_KIND),
    MODEL_FILE: is_kind(MODEL_KIND),
    WEIGHTS_FILE: nothing,
    CODES_FILE: nothing,
    CHECKPOINT_FILE: is_checkpoint,
    RECIPE_FILE: is_checkpoint,
    COMPARISON_FILE: is_kind(COMPARISON_KIND),
    JSON_NAME: is_kind(REPORT_KIND),
    HTML_NAME: is_report_page,
    MARKDOWN_NAME: is_report_page,
    TRIED_FILE: is_kind(TRIED_KIND),
    CONFIG_FILE: lambda path: path.read_bytes()[:14] == b"# edgecompress",
}
"""What a pipeline writes into its folder, and how such a file is known."""

STALE = (MODEL_FILE, COMPARISON_FILE, HTML_NAME, MARKDOWN_NAME, JSON_NAME)
"""What an earlier plan led to, which a new one makes untrue; so are the other plans of its front."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The model that a folder was made from: name, source, and a digest of structure, weights and code.

    An empty source or key is not known.
    """

    name: str
    source: str
    key: str = ""

    def is_of(self, other: Owner) -> bool:
        """Whether both are one model, be it that its file was moved, or that it was trained on."""
        if self.source == other.source or (self.key and self.key == other.key):
            return True
        return not self.source and self.name == other.name

    @property
    def label(self) -> str:
        """For messages."""
        return printable(self.name if self.source in ("", self.name) else f"{self.name} ({self.source})")


def bundle_name(platforms: Sequence[str], platform: str) -> str:
    """The folder of a platform's bundle: ``bundle`` of the only one, else with the platform's name."""
    return BUNDLE if len(platforms) == 1 else f"{BUNDLE}_{platform}"


def owner_of(folder: Path) -> Owner | None:
    """The model that a folder was made from; None where no pipeline has worked, or has nothing to lose yet."""
    claimed = document_in(folder / STAGES / OWNER_FILE)
    if claimed.get("kind") == KIND:
        return _owner(claimed)
    for file in (folder / MODEL_FILE, folder / TRAINED / MODEL_FILE, folder / DECOMPOSED / MODEL_FILE):
        if (document := document_in(file)).get("kind") == MODEL_KIND:
            return _owner(document)
    stages = map(is_kind(STAGE_KIND), (folder / STAGES).glob("*.json"))
    return Owner(str(document_in(folder / PLAN_FILE).get("model", "")), "") if any(stages) else None


def _owner(document: Json) -> Owner:
    return Owner(*(str(document.get(field, "")) for field in ("name", "source", "key")))


def check_claim(folder: Path, model: Owner, *, force: bool = False) -> bool:
    """Prove that ``model`` may be compressed in a folder; returns whether the folder is its own already.

    With ``force`` another model's results are removed.

    Raises:
        FileError: another model's results are there, or something that no pipeline wrote.
    """
    bundles = (BUNDLE, *(f"{BUNDLE}_{platform}" for platform in PLATFORMS))
    for name in (STAGES, DECOMPOSED, TRAINED, PARETO, *bundles):
        if (folder / name).is_symlink():
            raise FileError(
                f"{folder / name}: is a symbolic link, which is not followed; choose another folder with -o"
            )
    owner = owner_of(folder)
    if owner is None:
        _check_unclaimed(folder, force=force)
        return False
    if owner.is_of(model):
        return True
    if not force:
        raise FileError(
            f"{folder}: holds {owner.label}, compressed; this is {model.label}: "
            "choose another folder with -o, or replace what is there with --force"
        )
    Stages(folder).forget()
    forget_front(folder)
    return False


def forget_plan(folder: Path) -> None:
    """Remove what an earlier plan led to, before a new one is there."""
    for stale in STALE:
        (folder / stale).unlink(missing_ok=True)
    forget_front(folder)


def forget_front(folder: Path, after: int = 0) -> list[Path]:
    """Remove what was made in ``pareto/N`` for every N greater than ``after``; files that others wrote there stay.

    Returns:
        The folders, in order of their numbers.
    """
    numbered = {int(path.name): path for path in (folder / PARETO).glob("*") if path.name.isdecimal()}
    found = [numbered[number] for number in sorted(numbered) if number > after and _is_own_folder(numbered[number])]
    for place in found:
        Stages(place).forget()
        for path in (place / STAGES, place, place.parent):
            with suppress(OSError):  # what holds something stays
                path.rmdir()
    return found


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _check_unclaimed(folder: Path, *, force: bool) -> None:
    for path, is_ours in _written(folder):
        check_replaceable(path, "file", is_ours, force=force)
    for name in (DECOMPOSED, TRAINED, PARETO):
        if any((folder / name).glob("*")) and not force:
            raise FileError(f"{folder / name}: is there and is not of edgecompress; choose another folder with -o")


def _written(folder: Path) -> Iterator[tuple[Path, Callable[[Path], bool]]]:
    """What a pipeline may write or remove in a folder, and how it is known as ours."""
    yield from ((folder / name, is_ours) for name, is_ours in OURS.items())
    yield from ((file, is_checkpoint) for file in folder.glob(CHECKPOINT.format("*")))
    yield from ((file, is_kind(STAGE_KIND, KIND)) for file in (folder / STAGES).glob("*.json"))


def claim(folder: Path, model: Owner) -> None:
    """Write down that a folder is ``model``'s; :func:`check_claim` comes before."""
    document = {"kind": KIND, "version": VERSION, "name": model.name, "source": model.source, "key": model.key}
    file = folder / STAGES / OWNER_FILE
    if document_in(file) != document:
        write_json(make_folder(file.parent) / file.name, document)


CHECKS = ("budget", "trace", "probe")
"""Stages that only remember that something was checked."""


def release(folder: Path) -> None:
    """Take a claim back, and what was remembered of checks, where nothing else was made in the folder."""
    stages = folder / STAGES
    ours = {OWNER_FILE, *(f"{name}.json" for name in CHECKS)}
    if stages.is_symlink() or not stages.is_dir() or {file.name for file in stages.iterdir()} - ours:
        return
    if any(path.exists() for path, _ in _written(folder) if path.parent != stages):
        return
    for name in ours:
        (stages / name).unlink(missing_ok=True)
    stages.rmdir()
