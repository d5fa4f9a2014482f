"""Which of several processes this one is, by the variables that ``torchrun`` and ``accelerate launch`` set."""

from __future__ import annotations

import os


def process_count() -> int:
    """How many processes were started to train together; 1 for a command started as usual."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Is this the process that writes files and speaks?"""
    return int(os.environ.get("RANK", "0")) == 0
