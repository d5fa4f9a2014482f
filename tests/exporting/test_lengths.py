"""Files of models that take tokens: any number of positions, or one where the model's code fixes it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecompress import devices
from edgecompress.artifacts import Artifact, Parity, golden_path
from edgecompress.errors import DeviceError
from edgecompress.exporting import export
from edgecompress.exporting.lengths import at_length, length_of, other_length
from edgecompress.exporting.verifying import verify
from edgecompress.models import Sample
from edgecompress.models.datasets import Inputs
from edgecompress.profiling import profile
from edgecompress.scoring import score
from edgecompress.targets import TARGETS
from tests.processes import ROOT

BENCH = ROOT / "deploy" / "runners" / "bench.py"
VOCABULARY, WIDTH, LENGTH = 11, 8, 6


class Causal(nn.Module):
    """Tokens and mask to scores of the next token: one layer of causal attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.key, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = (self.key(x) @ x.mT).masked_fill(later | (attention_mask == 0)[:, None], -1e4).softmax(2)
        scores: Tensor = self.head(x + weights @ self.value(x))
        return scores


class Fixed(Causal):
    """The same with a number for each of the example's positions."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids) * attention_mask[:, :, None] + self.positions
        scores: Tensor = self.head(x)
        return scores


class Windows(torch.utils.data.Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Rows of the tokens 0, 1, 2 ... that are longer than the example."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        tokens = (torch.arange(LENGTH + 3) + index) % VOCABULARY
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}, tokens.roll(-1)


def example() -> dict[str, Tensor]:
    tokens = torch.full((2, LENGTH), 7)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def sample_of(kind: type[nn.Module]) -> Sample:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return kind().eval()

    return Sample("tokens", "tokens.py", build, example(), splits=lambda _: Windows(), outputs="tokens")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    sample = sample_of(Causal)
    return export(sample.model(), sample, tmp_path_factory.mktemp("tokens"))


def test_a_file_takes_any_number_of_tokens_and_is_proved_at_another(exported: Artifact) -> None:
    assert [spec.shape for spec in exported.inputs] == [("batch", "positions")] * 2
    assert [(parity.batch, parity.length) for parity in exported.parity] == [(1, LENGTH), (3, LENGTH), (3, 4)]
    tokens, model = torch.randint(0, VOCABULARY, (2, 17)), sample_of(Causal).model()
    mask = torch.ones_like(tokens)
    mask[1, 9:] = 0
    run = TARGETS["onnx"].load(exported.path)
    found = run({"input_ids": tokens.numpy(), "attention_mask": mask.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found["output"]), model(tokens, mask), atol=1e-5, rtol=1e-5)


def test_perplexity_goes_through_the_file_and_facts_are_read_back(exported: Artifact) -> None:
    sample = sample_of(Causal)
    assert exported.score is not None
    assert exported.score.artifact == pytest.approx(score(sample.model(), sample), rel=1e-5)
    again = verify(Artifact.load(exported.path), sample)
    assert again.parity == exported.parity
    assert again.score is not None
    assert Parity.from_json({"batch": 1, "max_abs_error": 0.0, "sqnr_db": 300.0, "scale": 1.0}).length is None


@pytest.mark.slow
def test_real_tokens_are_fed_and_their_number_is_part_of_the_figures(exported: Artifact) -> None:
    fed, _ = exported.golden()
    assert fed["input_ids"].shape == (3, LENGTH)
    assert not np.array_equal(fed["input_ids"], np.full((3, LENGTH), 7))
    command = [sys.executable, str(BENCH), str(exported.path), "--pass", "start"]
    command += ["--inputs", str(golden_path(exported.path))]
    done = (subprocess.run([*command, *more], capture_output=True, check=True) for more in ([], ["--length", "40"]))
    assert [json.loads(one.stdout)["length"] for one in done] == [LENGTH, 40]
    made = profile(exported.path, devices.device_named("local"), runs=2, seconds=0.0, length=5)
    assert made.length == made.to_json()["length"] == 5


def test_where_the_model_fixes_the_length_the_file_does_and_says_why(tmp_path: Path) -> None:
    sample = replace(sample_of(Fixed), splits=None)
    made = export(sample.model(), sample, tmp_path)
    assert [spec.shape for spec in made.inputs] == [("batch", LENGTH)] * 2
    assert any("takes sequences of 6 positions only: PyTorch runs the model on no other" in n for n in made.notices)
    with pytest.raises(DeviceError, match="takes sequences of one length only; drop --length"):
        profile(made.path, devices.device_named("local"), runs=2, seconds=0.0, length=4)


def test_only_rows_of_whole_numbers_are_tokens() -> None:
    tokens: Inputs = (torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 0]]))
    assert length_of(tokens) == 3
    assert length_of((tokens[0], tokens[1][:, :2])) is None
    assert length_of((torch.randn(1, 3),)) is None
    assert at_length(tokens, 4)[0].tolist() == [[1, 2, 3, 1]]
    assert [other_length(length) for length in (2, 3, 64)] == [3, 2, 33]
