"""The models that come with this package: their facts, presets and files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError
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
        """Its file, once its weights are proved to be those that were shipped."""
        del trust, above
        if not is_whole(text):
            weights = sample_file(text, ".safetensors")
            raise FileError(f"{weights}: missing or damaged (its sha256 differs); install edgecompress again")
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


def is_whole(name: str) -> bool:
    """Whether the weights of the shipped sample ``name`` are those that were shipped."""
    file = sample_file(name, ".safetensors")
    return file.is_file() and sha256(file) == sample_facts()[name]["sha256"]
