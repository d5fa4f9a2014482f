"""The state of a training on disk, and digests by which a later run knows its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from edgecompress.errors import first_line
from edgecompress.files import written_aside
from edgecompress.finetuning.workers import workers
from edgecompress.progress import notice

VERSION, READ = 4, (3, 4)
"""Of what is written, and those that are read: the older has nothing within an epoch, and all weights."""
DIGEST_BYTES, AT_ONCE = 32, 1 << 22
State = dict[str, Any]


def save(state: State, checkpoint: Path) -> None:
    """Write a checkpoint atomically: torch's file, then its SHA-256. Nothing of it is copied in memory."""
    with written_aside(checkpoint) as aside:
        torch.save({"version": VERSION, **state}, aside)
        digest, _ = _digests(aside, 0)
        with aside.open("ab") as file:
            file.write(digest)


def is_checkpoint(file: Path) -> bool:
    """Whether a file is a whole checkpoint that :func:`save` wrote."""
    try:
        return _is_whole(file)
    except OSError:
        return False


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint that is no longer needed; what is no checkpoint of ours stays."""
    if is_checkpoint(checkpoint):
        checkpoint.unlink(missing_ok=True)


def _is_whole(checkpoint: Path) -> bool:
    """Whether the digest behind what torch wrote is right."""
    digest, behind = _digests(checkpoint, DIGEST_BYTES)
    return digest == behind


def _digests(file: Path, behind: int) -> tuple[bytes, bytes]:
    """The SHA-256 of all but the last bytes of a file, and these."""
    digest, left = hashlib.sha256(), file.stat().st_size - behind
    with file.open("rb") as opened:
        while left > 0 and (read := opened.read(min(left, AT_ONCE))):
            digest.update(read)
            left -= len(read)
        return digest.digest(), opened.read(behind)


def load(checkpoint: Path | None, key: str) -> State | None:
    """A checkpoint of the same start; of anything else, or a damaged file, None: that means starting over."""
    if checkpoint is None or not checkpoint.is_file():
        return None
    try:
        if not _is_whole(checkpoint):
            raise ValueError("it was damaged, or another program wrote it")
        state = torch.load(checkpoint, weights_only=True, map_location=workers().device)
    except Exception as error:  # a damaged file can fail in any way; the run can always start over
        notice(f"{checkpoint} cannot be read ({first_line(error)}): the training starts over")
        return None
    known = isinstance(state, dict) and state.get("version") in READ and state.get("key") == key
    return state if known else None
