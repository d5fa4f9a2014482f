"""What the tests share: a small model file as a user would write it, one thread, and skips with a reason."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from textwrap import dedent

import pytest

from tests.covering import slow_ones

sys.dont_write_bytecode = False  # while tests are collected: what is compiled then is read by the next run and children
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of workers and children: more would wait for each other by spinning

DATA = os.environ.get("EDGECOMPRESS_DATA", "")
LONGEST = [
    "test_readme.py", "test_running.py", "test_targets.py", "test_random_networks.py", "test_planning.py",
    "test_storing.py", "test_command_line.py", "test_adb.py", "test_ssh.py", "test_selectors.py", "test_profiling.py",
    "test_exporting.py", "test_refitting.py", "test_workers.py", "test_operators.py", "test_continuous.py",
    "test_package.py", "test_contributing.py",
]  # fmt: skip
TINY_MODEL = dedent(
    '''
    """Four classes of 12 x 12 images: a bright bar at the top, bottom, left or right, in noise."""

    import torch
    from torch import nn
    from torch.utils.data import TensorDataset


    def model():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 9, 64),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(64, 4),
        )


    def example():
        return torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))


    def data(split):
        count, seed = {"train": (512, 1), "validation": (128, 2), "test": (200, 3)}[split]
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 4, (count,), generator=generator)
        images = 0.5 * torch.randn(count, 1, 12, 12, generator=generator)
        images[labels == 0, :, :3] += 1
        images[labels == 1, :, -3:] += 1
        images[labels == 2, :, :, :3] += 1
        images[labels == 3, :, :, -3:] += 1
        return TensorDataset(images, labels)
    '''
)


def pytest_collection() -> None:
    """Not in a process that only hands out work to others: there these imports would keep all waiting."""
    from hypothesis import settings

    settings.register_profile("any load", deadline=None)
    settings.load_profile("any load")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _key_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))  # also of commands in other processes


@pytest.fixture(autouse=True)
def _data_sets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The large ones are for tests that say so; all others use the images that ship here, which are read at once."""
    if DATA and "cifar10" in request.keywords:
        monkeypatch.setenv("EDGECOMPRESS_DATA", DATA)


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def brief_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that look at a profile's facts alone."""
    from tests.quick import measure_briefly

    measure_briefly(monkeypatch)


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with data."""
    file = tmp_path_factory.mktemp("models") / "tiny.py"
    file.write_text(TINY_MODEL)
    return file


def pytest_collection_finish() -> None:
    """All modules of the tests, and torch with them, are imported, and know where the data sets are."""
    from tests.quick import collect_garbage_rarely, patch_exporter, seed_the_cpu_alone
    from tests.warm_interpreter import split_off_from_here

    collect_garbage_rarely()
    seed_the_cpu_alone()
    sys.dont_write_bytecode = True  # no folder of a test gets files that the test does not make
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    os.environ.pop("EDGECOMPRESS_DATA", None)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores, and all it starts
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as nohup does
    if "PYTEST_XDIST_WORKER" in os.environ:
        split_off_from_here()
    else:
        patch_exporter(pytest.MonkeyPatch())


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else extension modules take what is frozen for leaked when Python ends, and say so


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """What is slow is marked before pytest chooses by markers; what remains is put in order after it."""
    for item in slow_ones(items):
        item.add_marker(pytest.mark.slow)
    yield
    _put_in_order(items)


def _put_in_order(items: list[pytest.Item]) -> None:
    """The longest files come first: at the end they would run alone. What needs CIFAR-10 is skipped where it is not."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    if DATA and (Path(DATA) / "cifar-10-batches-bin").is_dir():
        return
    missing = pytest.mark.skip(reason="needs CIFAR-10: set EDGECOMPRESS_DATA to the folder of cifar-10-batches-bin")
    for item in items:
        if "cifar10" in item.keywords:
            item.add_marker(missing)
