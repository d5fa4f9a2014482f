"""Serve this folder, and open the address it prints:  python serve.py [--port 8000] [--host 127.0.0.1] [--check]

Only what manifest.json lists is given out. A file that is missing, a link or not listed is refused before anything is
served; the page itself checks what is in the files. A phone needs https, `adb reverse tcp:8000 tcp:8000`, or the
one-file page: browsers keep service workers from plain http but on localhost. Needs Python 3.8 and nothing else.
"""

import argparse
import functools
import http.server
import json
import os
import sys
from pathlib import Path

HERE = Path(os.path.realpath(__file__)).parent
MANIFEST, LARGEST_BYTES = "manifest.json", 1 << 24
IGNORED = ("__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini")  # what systems leave behind
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".md": "text/plain; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}


def fail(message):
    """Say what is wrong, in one line, and stop."""
    text = " ".join(str(message).split())
    print("serve.py: " + "".join(c if c.isprintable() else "?" for c in text)[:500], file=sys.stderr)
    raise SystemExit(2)


def listed():
    """The paths that the manifest lists."""
    file = HERE / MANIFEST
    try:
        if file.is_symlink() or file.stat().st_size > LARGEST_BYTES:
            fail("%s is a link, or larger than any manifest" % MANIFEST)
        files = json.loads(file.read_text(encoding="utf-8"))["files"]
        return {str(entry["path"]): entry["size_bytes"] for entry in files}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        fail("%s cannot be read: %s; make the bundle again" % (MANIFEST, error))


def found_here():
    """Everything in this folder by its path, but for what systems leave behind."""
    found = {}
    for folder, folders, names in os.walk(str(HERE)):
        folders[:] = [name for name in folders if name not in IGNORED]
        for name in [*folders, *names]:
            file = Path(folder) / name
            found[file.relative_to(HERE).as_posix()] = file
    return found


def check(files):
    """Prove that what is listed is here, of its size and no link, and that nothing else is here."""
    if not files:
        fail("%s lists no files" % MANIFEST)
    found = found_here()
    for path, file in sorted(found.items()):
        known = path in files or path == MANIFEST or file.name in IGNORED
        if file.is_symlink():
            fail("%s is a link, and no bundle has one" % path)
        if not known and file.is_file():
            fail("%s is not listed in %s; move it elsewhere" % (path, MANIFEST))
    for path, size in files.items():
        if path not in found or not found[path].is_file():
            fail("%s is missing, or not the path of a file here; copy the whole folder" % path)
        if found[path].stat().st_size != size:
            fail("%s was changed or damaged: its size differs from the manifest's" % path)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Gives out what is listed, with the right types."""

    extensions_map = {**TYPES, "": "application/octet-stream"}
    files = frozenset()

    def send_head(self):
        """The file, or 404 for anything that is not listed."""
        path = self.path.split("?", 1)[0].split("#", 1)[0].lstrip("/") or "index.html"
        if path not in self.files:
            self.send_error(404, "not in this bundle")
            return None
        return super().send_head()

    def end_headers(self):
        """Nothing is guessed, and a browser asks each time whether a file is still the same."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, *args):
        """Nothing is logged."""


def main():
    """Check, then serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for other machines too")
    parser.add_argument("--check", action="store_true", help="look at the folder, and serve nothing")
    options = parser.parse_args()
    files = listed()
    check(files)
    if options.check:
        return
    Handler.files = frozenset([*files, MANIFEST])
    handler = functools.partial(Handler, directory=str(HERE))
    try:
        server = http.server.ThreadingHTTPServer((options.host, options.port), handler)
    except OSError as error:
        fail("port %d cannot be used: %s; try --port 0" % (options.port, error))
    print("http://%s:%d/" % (options.host, server.server_port), flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
