"""A web bundle's folder as one page: scripts and styles in place, every file of the folder in it as gzip in base64."""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from edgecompress.errors import FileError
from edgecompress.files import files_in

MODULES = ("manifest.js", "preparing.js", "digest.js", "tensors.js", "edge_model.js", "measuring.js", "runtimes.js",
           "page.js")  # fmt: skip
"""Each after those that it imports."""
IMPORT = re.compile(r"^import \{[^}]*\} from '\./[a-z_]+\.js';\n", re.MULTILINE)
EXPORT = re.compile(r"^export (?=const|class|function|async function)", re.MULTILINE)
POLICY = re.compile(r'(http-equiv="Content-Security-Policy" content=")[^"]*(")')
INSTALLED = '<link rel="manifest" href="app.webmanifest">\n'
ICON = 'href="icon.svg"'
STYLE = '<link rel="stylesheet" href="page.css">'
SCRIPTS = '<script src="start.js"></script>\n<script type="module" id="page" src="page.js"></script>\n'
FILE = '<script type="text/plain" data-path="{path}">{text}</script>\n'
"""An element that no browser runs, with one file of the bundle."""


def one_page(folder: Path) -> bytes:
    """The page of a finished bundle in ``folder``, the same each time.

    Raises:
        FileError: the folder's page is not the one this package writes.
    """
    files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files_in(folder)}
    parts = "".join(FILE.format(path=path, text=_packed(content)) for path, content in files.items())
    return page_around(files, parts)


def page_around(files: Mapping[str, bytes], parts: str) -> bytes:
    """The page of a bundle's files with ``parts`` where these lie in it.

    Raises:
        FileError: the page among the files is not the one this package writes.
    """
    texts = {path: content.decode() for path, content in files.items() if path in ("index.html", "start.js", "page.css",
                                                                                   "icon.svg", *MODULES)}  # fmt: skip
    try:
        style, start = texts["page.css"], texts["start.js"]
        module = "".join(EXPORT.sub("", IMPORT.sub("", texts[name])) for name in MODULES)
        page = _replaced(texts["index.html"], INSTALLED, "")
        page = _replaced(page, ICON, f'href="data:image/svg+xml;base64,{_base64(texts["icon.svg"].encode())}"')
    except KeyError as error:
        raise FileError(f"no page can be made of a bundle without {error}") from None
    page = _replaced(page, STYLE, f"<style>{style}</style>")
    page = _replaced(
        page, SCRIPTS, f'{parts}<script>{start}</script>\n<script type="module" id="page">{module}</script>\n'
    )
    return POLICY.sub(lambda found: found[1] + _policy(style, start, module) + found[2], page, count=1).encode()


def _replaced(page: str, old: str, new: str) -> str:
    if page.count(old) != 1 or "</script" in new.replace("</script>\n", ""):
        raise FileError(f"index.html: {old.strip()[:60]!r} is not in it once; make the bundle again")
    return page.replace(old, new)


def _policy(style: str, *scripts: str) -> str:
    """What the page may do: run its own scripts, and load nothing from anywhere."""
    own = " ".join(_digest(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {own} blob: 'wasm-unsafe-eval'; style-src {_digest(style)}; "
        "img-src blob: data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"'sha256-{_base64(hashlib.sha256(text.encode()).digest())}'"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _packed(content: bytes) -> str:
    return _base64(gzip.compress(content, 9, mtime=0))
