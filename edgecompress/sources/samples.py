"""The models that come with this package: their facts, presets and files."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError, MissingExtra
from edgecompress.files import resource, sha256
from edgecompress.models import Sample
from edgecompress.sources.python_file import from_file


class ShippedSample:
    """A model that comes with this package, by its name: its code is ours."""

    name = "sample"
    summary = "NAME: a model that comes with this package; see `list samples`."
    runs_code = False

    @property
    def form(self) -> str:
        """With the names there are."""
        return f"a sample ({', '.join(sorted(sample_facts()))})"

    def matches(self, text: str) -> bool:
        """One of the names, spelled as it is."""
        return text in sample_facts()

    def files(self, text: str) -> tuple[Path, ...]:
        """None of the user's."""
        del text
        return ()

    def resolve(self, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
        """Its file, once its weights are proved to be those that were shipped, here or in a package of their own."""
        del trust, above
        weights, facts = sample_weights(text), sample_facts()[text]
        _refuse_missing(text, facts.get("needs", []))
        if not is_whole(text):
            again = facts.get("package", "edgecompress")
            raise FileError(f"{weights}: missing or damaged (its sha256 differs); install {again} again")
        return from_file(sample_file(text, ".py"), "model", text, name=text)


def sample_facts() -> dict[str, dict[str, Any]]:
    """The shipped samples by name, with their facts from ``sample_models/info.toml``."""
    return tomllib.loads((resource("sample_models") / "info.toml").read_text(encoding="utf-8"))


def presets(name: str) -> dict[str, dict[str, Any]]:
    """The committed settings of the sample ``name`` by preset: options of ``compress`` and their values."""
    table = tomllib.loads((resource("sample_models") / "presets.toml").read_text(encoding="utf-8"))
    committed: dict[str, dict[str, Any]] = table.get(name, {})
    return committed


def sample_file(name: str, suffix: str) -> Path:
    """A file of the shipped sample ``name``."""
    return resource("sample_models") / f"{name.replace('-', '_')}{suffix}"


def sample_weights(name: str) -> Path:
    """The weights of the sample ``name``: shipped here, or in the pip package that its facts name.

    Raises:
        MissingExtra: that package is not installed; the message holds the pip command.
    """
    facts = sample_facts()[name]
    if "package" not in facts:
        return sample_file(name, ".safetensors")
    folder, _, rest = str(facts["weights"]).partition("/")
    found = importlib.util.find_spec(folder)
    if found is None or not found.submodule_search_locations:
        raise _missing(name, f"its weights are in the package {facts['package']}, which is not installed")
    return Path(found.submodule_search_locations[0]) / rest


def _refuse_missing(name: str, modules: list[str]) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(name, f"needs {module}, which is not installed")


def _missing(name: str, fact: str) -> MissingExtra:
    return MissingExtra(f"{name}: {fact}; {sample_facts()[name]['install']}")


def is_whole(name: str) -> bool:
    """Whether the weights of the sample ``name`` are those that were shipped.

    Raises:
        MissingExtra: they are in a package that is not installed.
    """
    file = sample_weights(name)
    return file.is_file() and sha256(file) == sample_facts()[name]["sha256"]
