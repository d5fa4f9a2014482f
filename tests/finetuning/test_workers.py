"""The same command under torchrun: the same curve in two processes as in one, and a clear end when one is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

import pytest
import torch

from edgecompress.errors import TrainingError
from edgecompress.finetuning.workers import Accelerated
from tests.processes import ROOT, Answer, command

MODEL = dedent(
    '''
    """Two classes of noise with another mean; no batch norm, whose statistics are those of each process."""

    import os
    import time
    from pathlib import Path

    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    HOLD = Path(__file__).with_name("hold")
    HOLD.with_name("pid_" + os.environ.get("RANK", "")).write_text(str(os.getpid()))


    class Held(TensorDataset):
        """Gives nothing more once the file that ``hold`` names is there."""

        def __getitem__(self, index):
            while HOLD.exists() and Path(HOLD.read_text()).exists():
                time.sleep(0.05)
            return super().__getitem__(index)


    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(),
                             nn.Linear(16 * 16, 2))


    def example():
        return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


    def data(split):
        generator = torch.Generator().manual_seed(len(split))
        labels = torch.randint(0, 2, (1024,), generator=generator)
        images = torch.randn(1024, 1, 8, 8, generator=generator) + 0.1 * labels[:, None, None, None]
        return Held(images, labels)
    '''
)
OPTIONS = ["--keep", "0.6", "--calibrate", "0", "--lr", "0.05", "--batch-size", "64", "--epochs", "2", "--json"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("scale") / "noise.py"
    file.write_text(MODEL)
    return file


def free_port() -> str:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return str(bound.getsockname()[1])


def as_torchrun_does(model: Path, folder: Path) -> list[Future[Answer]]:
    """The command in two processes that know of each other by the variables that torchrun sets."""
    place, pool = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": "2"}, ThreadPoolExecutor(2)
    envs = [{**place, "RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2"} for rank in "01"]
    return [pool.submit(command, "compress", model, *OPTIONS, "-o", folder, env=env) for env in envs]


def losses(document: dict[str, object]) -> list[float]:
    return [epoch["loss"] for epoch in document["training"]["history"]]


def wait_for(path: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.05)


def test_two_processes_train_as_one_although_one_is_killed_and_all_start_again(
    model_file: Path, tmp_path: Path
) -> None:
    alone = command("compress", model_file, *OPTIONS, "-o", tmp_path / "one")
    assert alone.code == 0, alone.err
    folder, hold = tmp_path / "two", model_file.with_name("hold")
    hold.write_text(str(folder / "checkpoint.pt"))
    first, second = as_torchrun_does(model_file, folder)
    wait_for(folder / "checkpoint.pt")
    os.kill(int(model_file.with_name("pid_1").read_text()), signal.SIGKILL)
    assert second.result().code == -signal.SIGKILL
    hold.unlink()
    left = first.result()
    assert left.code == 1
    assert "another process ended" in left.err
    assert not (folder / "model.safetensors").exists()
    assert (folder / "checkpoint.pt").is_file()
    first, second = as_torchrun_does(model_file, folder)
    out, err = first.result().out, first.result().err
    assert (second.result().out, second.result().err) == ("", "")
    assert "fine-tune, epoch 1 of" not in err, "it started over"
    assert "fine-tune, epoch 2 of 2" in err
    one, two = json.loads(alone.out), json.loads(out)
    assert len(losses(two)) == 2, err
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    assert losses(one)[1] < losses(one)[0]
    assert two["accuracy"]["finetuned"] == pytest.approx(one["accuracy"]["finetuned"], abs=0.3)
    files = {path.name for path in folder.iterdir()}
    assert {"plan.json", "model.json", "model.safetensors"} <= files
    assert not any(name.endswith((".pt", ".partial")) for name in files)


@pytest.mark.slow
def test_torchrun_starts_them(model_file: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "edgecompress", "compress", str(model_file), *OPTIONS, "-o", str(tmp_path / "out")]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    assert len(losses(json.loads(done.stdout))) == 2


def test_processes_that_accelerate_does_not_connect_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As its version 1.15 does on a machine without an accelerator: each would be the first and write the files."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    monkeypatch.setattr("accelerate.Accelerator", lambda **_options: alone)
    with pytest.raises(TrainingError, match="2 processes were started, and Accelerate connected 1"):
        Accelerated()
