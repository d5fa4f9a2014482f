"""The state of a training on disk, and digests by which a later run knows its own."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from edgecompress.errors import first_line
from edgecompress.files import written_aside
from edgecompress.finetuning.workers import workers
from edgecompress.progress import notice

VERSION = 3
DIGEST_BYTES = 32
State = dict[str, Any]


def save(state: State, checkpoint: Path) -> None:
    """Write a checkpoint atomically: torch's file, then its SHA-256."""
    written = io.BytesIO()
    torch.save({"version": VERSION, **state}, written)
    written.write(hashlib.sha256(written.getbuffer()).digest())
    with written_aside(checkpoint) as aside:
        aside.write_bytes(written.getbuffer())


def is_checkpoint(file: Path) -> bool:
    """Whether a file is a whole checkpoint that :func:`save` wrote."""
    try:
        return _written(file) is not None
    except OSError:
        return False


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint that is no longer needed; what is no checkpoint of ours stays."""
    if is_checkpoint(checkpoint):
        checkpoint.unlink(missing_ok=True)


def _written(checkpoint: Path) -> memoryview | None:
    """What torch wrote, if the digest behind it is right."""
    content = memoryview(checkpoint.read_bytes())
    written, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:]
    return written if hashlib.sha256(written).digest() == digest else None


def load(checkpoint: Path | None, key: str) -> State | None:
    """A checkpoint of the same start; of anything else, or a damaged file, None: that means starting over."""
    if checkpoint is None or not checkpoint.is_file():
        return None
    try:
        written = _written(checkpoint)
        if written is None:
            raise ValueError("it was damaged, or another program wrote it")
        state = torch.load(io.BytesIO(written), weights_only=True, map_location=workers().device)
    except Exception as error:  # a damaged file can fail in any way; the run can always start over
        notice(f"{checkpoint} cannot be read ({first_line(error)}): the training starts over")
        return None
    known = isinstance(state, dict) and state.get("version") == VERSION and state.get("key") == key
    return state if known else None
