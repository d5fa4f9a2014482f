"""Running out of memory is one error that names the layer or the stage, and the way out."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from edgecompress import memory
from edgecompress.calibrating import Calibration
from edgecompress.errors import ModelError, OutOfMemory
from edgecompress.memory import give_back, naming_shortage
from edgecompress.planning import candidates, plan
from edgecompress.selectors import Budget


class Hungry(nn.Module):
    """Wants more memory than there is once it is given many inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            torch.empty(1 << 46)
        return self.second(self.first(x).relu())


def test_a_model_that_runs_out_of_memory_is_told_so_with_the_size() -> None:
    inputs = torch.randn(8, 16)
    with pytest.raises(
        OutOfMemory, match=r"Hungry: .*out of memory \(2\.8e\+05 GB more were wanted\); use fewer"
    ) as met:
        plan(Hungry(), (inputs[:1],), Budget(0.5), calibration=Calibration((inputs,)), multiple=1)
    assert met.value.exit_code == 2
    assert isinstance(met.value, ModelError)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")]
)
def test_a_layer_that_takes_too_much_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(candidates, "_calibrated", failing)
    model, inputs = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16)), torch.randn(8, 16)
    with pytest.raises(OutOfMemory, match=r"^0: its candidates: out of memory.*; leave it dense \(--exclude 0\)"):
        plan(model, (inputs[:1],), Budget(0.5), calibration=Calibration((inputs,)), multiple=1)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), naming_shortage("a layer", "wait"):
        raise RuntimeError("shapes differ")
    with pytest.raises(OutOfMemory, match=r"^inner$"), naming_shortage("a layer", "wait"):
        raise OutOfMemory("inner")


def test_giving_memory_back_is_left_out_where_the_library_has_no_way(monkeypatch: pytest.MonkeyPatch) -> None:
    give_back()
    monkeypatch.setattr(memory, "_of_libc", lambda _name: None)
    give_back()
    with memory.keeping_little():
        pass


BLOCK = 3 * memory.LITTLE[0]
"""Bytes of a block that is kept as a rule, and not where little is kept."""

OF_LIBC = """
import ctypes
from pathlib import Path

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes, libc.memset.argtypes = (ctypes.c_void_p,), (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)

def resident():
    return 4096 * int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
"""

GIVEN_BACK = f"""
from edgecompress.memory import keeping_little
{OF_LIBC}
def given_back():
    block, above = libc.malloc(SIZE), libc.malloc(SIZE >> 8)
    libc.memset(block, 1, SIZE)
    before = resident()
    libc.free(block)
    return before - resident()

with keeping_little():
    print(given_back())
print(given_back())
"""


@pytest.mark.skipif(memory._of_libc("mallopt") is None, reason="another C library than glibc keeps what it likes")
def test_what_is_freed_goes_back_at_once_where_little_is_kept() -> None:
    """In a process of its own, without blocks that were freed before and are used again."""
    code = GIVEN_BACK.replace("SIZE", str(BLOCK))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    little, usual = map(int, done.stdout.split())
    assert little > 0.9 * BLOCK
    assert usual < 0.1 * BLOCK


KEPT = f"""
from edgecompress.memory import keeping_much
{OF_LIBC}
def pile():
    blocks = [libc.malloc(SIZE) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, SIZE)
    for block in blocks:
        libc.free(block)
    return resident()

before = resident()
with keeping_much():
    print(pile() - before)
print(resident() - before)
"""


@pytest.mark.skipif(memory._of_libc("mallopt") is None, reason="another C library than glibc keeps what it likes")
def test_what_is_freed_is_kept_while_much_is_and_goes_back_after() -> None:
    """Eight blocks together are more than is kept as a rule."""
    size = memory.USUAL[1] // 5
    done = subprocess.run([sys.executable, "-c", KEPT.replace("SIZE", str(size))], capture_output=True, check=True)
    kept, after = map(int, done.stdout.split())
    assert kept > 7 * size
    assert after < 2 * size
