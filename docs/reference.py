"""Write the reference of the Python API: ``python docs/reference.py [FOLDER]`` (default out/api), or ``make docs``.

Needs the extra ``docs``. What is shown is what the package calls public, and what an extension is made of.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pdoc

import edgecompress

MODULES = (
    "edgecompress",
    "edgecompress.errors",
    "edgecompress.plans",
    "edgecompress.settings",
    "edgecompress.running.options",
    "edgecompress.selectors",
    *(
        f"edgecompress.{folder}.base"
        for folder in ("decompositions", "selectors", "recipes", "targets", "devices", "sources", "platforms")
    ),
)


def main() -> None:
    """Write the pages."""
    for name in edgecompress.__all__:  # pdoc shows what is loaded, not what would be on first use
        setattr(edgecompress, name, getattr(edgecompress, name))
    pdoc.render.configure(docformat="google", show_source=False)
    pdoc.pdoc(*MODULES, output_directory=Path(sys.argv[1] if len(sys.argv) > 1 else "out/api"))


if __name__ == "__main__":
    main()
