"""Write the documentation as a site: ``python docs/pages.py [FOLDER]`` (default out/docs), or ``make docs``.

Needs the extra ``docs``, and nothing else of this package: the reference is read from the code without running it.
Pages lie in the site as they do in the repository, so that links are the same; one that leads nowhere is an error.
"""

from __future__ import annotations

import ast
import logging
import re
import shutil
import sys
import tempfile
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import MkDocsException

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([\w.]+)</code>")
"""A name in a docstring, as Sphinx marks it."""
ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
EXTENDED = ("decompositions", "selectors", "recipes", "targets", "devices", "sources", "platforms")
"""The folders that are extended by a class in a file of its own."""
REFERENCE = {
    "api/README.md": ("Python API", ("edgecompress",)),
    "api/values.md": ("Values and errors", ("edgecompress.errors", "edgecompress.plans", "edgecompress.settings")),
    "api/extending.md": ("What extensions are made of", tuple(f"edgecompress.{name}.base" for name in EXTENDED)),
}
"""The pages of the reference, each with its title and its modules."""


def collect(into: Path) -> None:
    """Copy the README and all that is reached from it by links; write the reference beside them."""
    waiting, seen = [ROOT / "README.md", ROOT / "docs" / "site.css"], set[Path]()
    while waiting:
        page = waiting.pop()
        seen.add(page)
        there = into / page.relative_to(ROOT)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, there)
        links = LINK.findall(page.read_text(encoding="utf-8")) if page.suffix == ".md" else []
        waiting += [file for link in links if (file := (page.parent / link).resolve()) not in seen and file.is_file()]
    (into / "api").mkdir()
    exported = set(names("edgecompress"))
    for file, (title, modules) in REFERENCE.items():
        parts = [f"# {title}\n"]
        for module in modules:
            shown = [name for name in names(module) if module == "edgecompress" or name not in exported]
            parts.append(f"::: {module}\n    options:\n      members: {shown}\n")
        (into / file).write_text("\n".join(parts), encoding="utf-8")


def names(module: str) -> list[str]:
    """What a module exports, or else defines, but for what begins with an underscore."""
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = ast.parse(source.read_text(encoding="utf-8")).body
    for node in nodes:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    defined = [node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [name for name in defined if not name.startswith("_")]


def on_page_content(html: str, **_page: object) -> str:
    """A hook of MkDocs: names of the package in docstrings are code, with the place they come from left out."""
    return ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html)


def main() -> int:
    """Write the pages; 1 if a link leads nowhere, or a name of the reference is not there."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    site = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "out" / "docs").resolve()
    with tempfile.TemporaryDirectory() as pages:
        collect(Path(pages))
        try:
            build(load_config(str(ROOT / "docs" / "mkdocs.yml"), docs_dir=pages, site_dir=str(site), strict=True))
        except MkDocsException as error:
            print(error, file=sys.stderr)
            return 1
    print(f"look: {site / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
