"""Running out of memory is one error that names the layer or the stage, and the way out."""

from __future__ import annotations

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
    def failing(*_: object) -> None:
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
