"""How near the compressed model's outputs are to the dense one's: on which inputs, and what is made of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import edgecompress as ec
from edgecompress.running.nearness import _made, nearness, nearness_of
from edgecompress.running.options import Options
from edgecompress.running.pipeline import Pipeline
from edgecompress.selectors import Budget
from edgecompress.settings import FineTuning


def test_outputs_are_compared_by_energy_and_by_their_answers() -> None:
    before = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0], [0.0, 2.0]], np.float32)
    after = before[:, ::-1].copy() * np.array([[0], [0], [0], [1]], np.float32)  # three silent, one turned round
    found = nearness_of([before], [after], 4, "fresh")
    assert found.agreement == 1 / 4
    assert found.sqnr_db == pytest.approx(10 * math.log10(31 / (27 + 8)))
    assert nearness_of([before], [before], 4, "fresh").sqnr_db == 300
    assert nearness_of([before], [before * np.float32(np.nan)], 4, "fresh").sqnr_db == -300


@pytest.mark.parametrize("outputs", [[np.ones((4, 1), np.float32)], [np.ones((4, 2), np.float32)] * 2])
def test_outputs_that_are_no_scores_of_classes_have_no_answers(outputs: list[np.ndarray]) -> None:
    assert nearness_of(outputs, outputs, 4, "fresh").agreement is None


def test_a_loss_of_the_users_own_has_no_answers_either() -> None:
    scores = [np.eye(4, dtype=np.float32)]
    assert nearness_of(scores, scores, 4, "fresh", classes=False).agreement is None


@pytest.mark.parametrize(
    ("sqnr_db", "agreement", "lost"),
    [(0.1, None, True), (10.0, None, False), (0.1, 0.95, False), (0.1, 0.7, True), (10.0, 0.3, True)],
)
def test_outputs_are_lost_by_their_answers_first(sqnr_db: float, agreement: float | None, lost: bool) -> None:
    assert ec.reporting.scores.Nearness(8, "fresh", sqnr_db, agreement).lost is lost


def pipeline(folder: Path, test: TensorDataset | None, calibrate: int = 8) -> Pipeline:
    net, inputs = nn.Sequential(nn.Linear(6, 4)), torch.zeros(1, 6)
    splits = None if test is None else {"train": TensorDataset(torch.eye(8, 6), torch.zeros(8)), "test": test}
    sample = ec.Sample("net", "net", lambda: net, (inputs,), splits and splits.__getitem__)
    return Pipeline(sample, folder, Options(Budget(0.5), calibrate=calibrate, tuning=FineTuning(epochs=0)))


def test_inputs_are_none_that_factors_were_fitted_to(tmp_path: Path) -> None:
    images = torch.cat((torch.eye(8, 6), 2 * torch.eye(5, 6)))
    made = pipeline(tmp_path, TensorDataset(images, torch.zeros(13)))
    found = nearness(made, made.dense_model)
    assert (found.inputs, found.seen, found.sqnr_db, found.agreement) == (5, "fresh", 300.0, 1.0)
    everything = replace(made, options=replace(made.options, calibrate=0))
    assert nearness(everything, made.dense_model).inputs == 13


def test_where_nothing_else_is_left_it_is_said(tmp_path: Path) -> None:
    made = pipeline(tmp_path, TensorDataset(torch.eye(8, 6), torch.zeros(8)))
    assert (nearness(made, made.dense_model).seen, nearness(made, made.dense_model).inputs) == ("fitted", 8)
    assert nearness(pipeline(tmp_path, None), made.dense_model).seen == "made"


def test_without_data_a_model_that_takes_so_many_rows_alone_is_given_its_example() -> None:
    example = (torch.randn(4, 20),)
    assert len(_made(nn.Linear(20, 3), example)[0]) == 16
    assert _made(nn.Conv1d(4, 2, 3), example) is example  # a signal of four channels, no batch
