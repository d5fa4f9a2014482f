"""A folder served to one page on this machine, and what that page posts."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_BYTES = 64 << 20
"""Of what a page reports."""
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""Pages with these headers are given a finer clock."""
TYPES = {".html": "text/html", ".js": "text/javascript", "": "application/octet-stream"}
POLL_S = 0.05


class Server(http.server.ThreadingHTTPServer):
    """A folder for one page, and what that posts."""

    daemon_threads = True
    token, report = "", b""

    def __init__(self, folder: Path, token: str) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.token, self.reported = token, threading.Event()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Gives out a folder, and takes the report."""

    extensions_map = TYPES
    server: Server

    def end_headers(self) -> None:
        """Isolated, as every page here."""
        for name, value in ISOLATED.items():
            self.send_header(name, value)
        super().end_headers()

    def do_POST(self) -> None:
        """Keep what the page reports; 404 for anything else."""
        length = int(self.headers.get("Content-Length") or 0)
        fine = self.path == self.server.token and length <= MOST_BYTES
        if fine:
            self.server.report = self.rfile.read(length)
        self.send_response(204 if fine else 404)
        self.end_headers()
        if fine:
            self.server.reported.set()

    def log_message(self, *_args: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path, token: str) -> Iterator[Server]:
    """A folder's server, which takes a report at the path ``token``."""
    with Server(folder, token) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
