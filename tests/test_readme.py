"""What README and docs/ say is run: their commands, their model files, their Python; and their links lead somewhere."""

from __future__ import annotations

import gzip
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

import edgecompress as ec
from edgecompress.cli import group
from tests.processes import ROOT, command

README = ROOT / "README.md"
EXAMPLE = ROOT / "examples" / "digits"
PAGES = [README, *(ROOT / page for page in dict.fromkeys(re.findall(r"\]\((docs/\w+\.md)\)", README.read_text())))]
"""In the order of reading: a page may use what the pages before it wrote."""
TEXTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "deploy", "examples")),
]


def blocks(page: Path, language: str) -> list[str]:
    """What stands between fences of this language."""
    return [text for kind, text in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), re.DOTALL) if kind == language]


def commands(page: Path) -> list[str]:
    """Its calls of edgecompress, without their comments."""
    lines = [line.split("  #")[0].strip() for text in blocks(page, "sh") for line in text.splitlines()]
    return [line for line in lines if line.startswith("edgecompress ")]


def files(page: Path) -> dict[str, str]:
    """The files it shows: Python whose first line is a comment of its name."""
    return {text.split()[1]: text for text in blocks(page, "python") if re.match(r"# \w+\.py\n", text)}


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets with the first 600 training and 100 test images of the MNIST subset."""
    folder = tmp_path_factory.mktemp("data") / "mnist"
    folder.mkdir()
    for file in (ROOT / "sample_models" / "mnist").glob("*.gz"):
        raw, count = gzip.decompress(file.read_bytes()), 600 if file.name.startswith("train") else 100
        total, *sizes = np.frombuffer(raw, ">i4", raw[3], 4)
        start, each = 4 + 4 * raw[3], int(np.prod(sizes))
        assert len(raw) == start + total * each
        head = raw[:4] + count.to_bytes(4, "big") + raw[8:start]
        (folder / file.name).write_bytes(gzip.compress(head + raw[start : start + count * each], 1))
    return folder.parent


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights of the README's model alone."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my_model.safetensors").write_bytes((EXAMPLE / "my_model.safetensors").read_bytes())
    return folder


def test_the_model_of_the_readme_is_the_one_in_examples() -> None:
    assert files(README)["my_model.py"] == (EXAMPLE / "my_model.py").read_text()
    assert (EXAMPLE / "my_model.safetensors").stat().st_size < 200_000
    sample = ec.resolve(str(EXAMPLE / "my_model.py"))
    assert ec.score(sample.model(), sample) > 95


def test_the_readme_leads_to_every_page() -> None:
    assert set(PAGES[1:]) == set((ROOT / "docs").glob("*.md"))


def test_the_site_has_every_page_and_leads_to_it() -> None:
    listed = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "docs" / "mkdocs.yml").read_text(), re.MULTILINE))
    assert {page for page in listed if not page.startswith("api/")} == {str(page.relative_to(ROOT)) for page in TEXTS}


def test_every_command_is_shown() -> None:
    assert {shlex.split(line)[1] for page in PAGES for line in commands(page)} == set(group.commands)


def test_the_commands_work_in_order(workplace: Path, few_digits: Path) -> None:
    done, env = set(), {"EDGECOMPRESS_DATA": str(few_digits), "EDGECOMPRESS_CACHE": str(workplace / "cache")}
    for page in PAGES:
        for name, text in files(page).items():
            (workplace / name).write_text(text)
        for line in commands(page):
            large = any(net in line for net in ("resnet", "smollm2"))
            if line not in done and not (large and any(word in line for word in ("run", "compress "))):
                answer = command(*shlex.split(line)[1:], *quick(line), cwd=workplace, env=env)
                assert answer.code == 0, (page.name, line, answer.err)
            done.add(line)


def quick(line: str) -> list[str]:
    """Options that make a command short."""
    name = shlex.split(line)[1]
    rounds = ["--epochs", "1", "--round-epochs", "1"] if "--preset" in line else []
    times = ["--threads", "1", "--seconds", "0.1"] if name in ("run", "profile") else []
    epochs = ["--epochs", "1"] if name == "run" else []
    few = ["--calibrate", "12"] if name in ("plan", "compress", "run") and "ada_tucker" not in line else []
    none = ["--calibrate", "0"] if name == "search" else []  # with inputs it needs an extra
    return [*rounds, *times, *epochs, *few, *none]


@pytest.mark.parametrize("page", [page for page in PAGES if set(blocks(page, "python")) - set(files(page).values())])
def test_the_python_works(
    page: Path, tmp_path: Path, few_digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGECOMPRESS_DATA", str(few_digits))
    monkeypatch.chdir(tmp_path)
    for number, text in enumerate(set(blocks(page, "python")) - set(files(page).values())):
        (tmp_path / f"{number}.py").write_text(text)
        runpy.run_path(str(tmp_path / f"{number}.py"))
    assert "lenet5" in capsys.readouterr().out


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target, _, heading in re.findall(r"\]\((?!https?:)([^)#\s]*)(#([^)\s]*))?\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), target
        assert not heading or heading in anchors(file), (target, heading)


def anchors(page: Path) -> set[str]:
    """What GitHub names its headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
