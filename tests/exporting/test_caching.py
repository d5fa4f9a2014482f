"""Files of causal language models with a KV cache, of nets of random weights: LLaMA's and GPT-2's architectures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecompress.artifacts import Artifact, golden_path
from edgecompress.decomposing import decompose
from edgecompress.errors import ExportError, ParityError
from edgecompress.exporting import export, verifying
from edgecompress.exporting.caching import generated, padded
from edgecompress.exporting.verifying import check_steps, verify
from edgecompress.models import Sample
from edgecompress.models.stepping import logits_of
from edgecompress.planning import plan
from edgecompress.selectors import Budget
from edgecompress.settings import ExportOptions
from edgecompress.targets import target_named
from tests.processes import ROOT

VOCABULARY, LENGTH = 48, 10
CACHED = ExportOptions(kv_cache=True)
ONNX = target_named("onnx")
transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed: pip install '.[transformers]'"
)


def llama() -> nn.Module:
    """With grouped queries."""
    config = transformers.LlamaConfig(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                              num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2)  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> nn.Module:
    """With learned positions."""
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=4,
                             bos_token_id=1, eos_token_id=2)  # fmt: skip
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config).eval()


def tokens(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows))


def sample_of(build: Callable[[], nn.Module], **more: Any) -> Sample:
    given = {"input_ids": tokens(), "attention_mask": torch.ones(2, LENGTH, dtype=torch.int64)}
    return Sample("tiny", "tiny.py", build, given, outputs="tokens", **more)


@dataclass
class Made:
    model: nn.Module
    sample: Sample
    artifact: Artifact


@pytest.fixture(scope="module", params=[llama, gpt2])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A compressed model and its file; of its Linears some are chains."""
    sample = sample_of(request.param)
    dense = sample.model()
    small = plan(dense, sample.inputs, Budget(keep=0.85, of="params"), methods=("svd",))
    model = decompose(dense, small)
    sample = replace(sample, plan=small, dense=sample)
    return Made(model, sample, export(model, sample, tmp_path_factory.mktemp("cached"), options=CACHED))


def test_a_prompt_and_then_token_by_token_are_all_tokens_at_once(made: Made) -> None:
    run, rows, mask = ONNX.load(made.artifact.path, threads=1), tokens(3, 9), padded(3, 9)
    assert mask.tolist()[2] == [0] * 3 + [1] * 6
    found = generated(run, made.artifact.inputs, rows.numpy(), mask)
    expected = logits_of(made.model, rows, torch.from_numpy(mask)).numpy()
    assert np.abs((found - expected)[mask == 1]).max() < 1e-5 * np.abs(expected).max()


def test_facts_say_batches_and_lengths_that_were_proved_and_how_far_dense_is(made: Made) -> None:
    parity = made.artifact.parity
    assert [(one.batch, one.length) for one in parity] == [(1, LENGTH), (3, LENGTH), (3, LENGTH // 2 + 1)]
    assert all(one.sqnr_db > 100 for one in parity)
    assert made.artifact.approximation is not None
    assert made.artifact.approximation.parity.sqnr_db < 60


def test_of_a_large_vocabulary_fewer_positions_are_compared(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MOST_LOGITS", 3 * VOCABULARY * (LENGTH - 1))
    found = check_steps(ONNX, made.artifact.path, made.artifact.inputs, made.model, made.sample.inputs)
    assert [one.length for one in found] == [LENGTH - 1, LENGTH - 1, (LENGTH - 1) // 2 + 1]


def test_names_and_free_axes_are_those_of_hugging_face(made: Made) -> None:
    inputs = {spec.name: spec.shape for spec in made.artifact.inputs}
    assert list(inputs)[:4] == ["input_ids", "attention_mask", "position_ids", "logits_to_keep"]
    assert inputs["past_key_values.1.value"][::2] == ("batch", "past")
    outputs = {spec.name: spec.shape for spec in made.artifact.outputs}
    assert outputs["logits"] == ("batch", "kept", VOCABULARY)
    assert "present.1.value" in outputs


def test_chains_are_in_the_graph_by_their_layers_names(made: Made) -> None:
    assert made.sample.plan is not None
    assert made.sample.plan.layers
    assert not [notice for notice in made.artifact.notices if "link" in notice]


def test_a_wrong_cache_is_noticed(made: Made) -> None:
    target, path = ONNX, made.artifact.path
    run = target.load(path, threads=1)

    class Forgetful:
        name = "onnx"

        def signature(self, path: Path) -> Any:
            return target.signature(path)

        def load(self, _path: Path, *, threads: int = 0) -> Any:
            def forgotten(feed: Any) -> Any:
                return run({name: a * 0 if name.endswith(".0.key") else a for name, a in feed.items()})

            return forgotten

    with pytest.raises(ParityError, match="differs from PyTorch at batch 1"):
        check_steps(Forgetful(), path, made.artifact.inputs, made.model, made.sample.inputs)  # type: ignore[arg-type]


def test_the_golden_pair_is_a_step_after_earlier_tokens(made: Made) -> None:
    inputs, outputs = made.artifact.golden()
    assert inputs["past_key_values.0.key"].shape[2] == LENGTH // 2
    assert outputs["logits"].shape[1] == 1
    found = ONNX.load(made.artifact.path, threads=1)(inputs)
    assert all(np.allclose(found[name], array, atol=1e-5) for name, array in outputs.items())


def test_verify_proves_it_again(made: Made) -> None:
    sample = replace(made.sample, build=lambda: made.model)
    assert [one.length for one in verify(made.artifact, sample).parity] == [LENGTH, LENGTH, LENGTH // 2 + 1]


def test_one_token_or_many_are_measured_after_as_many_as_one_likes(made: Made) -> None:
    path, bench = made.artifact.path, ROOT / "deploy" / "runners" / "bench.py"
    argv = [sys.executable, str(bench), str(path), "--inputs", str(golden_path(path)), "--pass", "start"]
    for more, wanted in (
        ([], (5, 5)),
        (["--length", "1", "--past", "12"], (1, 12)),
        (["--length", "7", "--past", "0"], (7, 0)),
    ):
        answer = json.loads(subprocess.run([*argv, *more], capture_output=True, check=True, text=True).stdout)
        assert (answer["length"], answer["past"]) == wanted


def test_only_causal_models_of_hugging_face_have_a_cache(tmp_path: Path) -> None:
    sample = Sample("net", "net.py", lambda: nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8)), (tokens() % 8,))
    with pytest.raises(ExportError, match="net: --kv-cache is for causal language models"):
        export(sample.model(), sample, tmp_path, options=CACHED)


@pytest.mark.parametrize(
    ("target", "options", "why"),
    [
        ("litert", CACHED, "--kv-cache is for onnx and ort only"),
        ("onnx", replace(CACHED, precision="int8"), "drop --quantize"),
        ("onnx", replace(CACHED, batch=2), "drop --quantize and --batch-size"),
    ],
)
def test_what_files_with_a_cache_cannot_be_is_refused(
    target: str, options: ExportOptions, why: str, tmp_path: Path
) -> None:
    sample = Sample("net", "net.py", lambda: nn.Embedding(8, 4), (tokens() % 8,))
    with pytest.raises(ExportError, match=why):
        export(sample.model(), sample, tmp_path, target=target, options=options)


def test_perplexity_through_the_file_is_that_of_pytorch(tmp_path: Path) -> None:
    rows = tokens(12)
    items = [({"input_ids": row, "attention_mask": torch.ones_like(row)}, row.roll(-1)) for row in rows]
    sample = sample_of(llama, splits=lambda _split: items)
    scored = export(sample.model(), sample, tmp_path, options=CACHED).score
    assert scored is not None
    assert scored.items == 12
    assert scored.artifact == pytest.approx(scored.torch, rel=1e-5)


def test_other_inputs_are_refused_by_name(tmp_path: Path) -> None:
    given = {"input_ids": tokens(), "token_type_ids": tokens()}
    sample = Sample("tiny", "tiny.py", gpt2, given, outputs="tokens")
    with pytest.raises(ExportError, match=r"this one has input_ids .* token_type_ids"):
        export(sample.model(), sample, tmp_path, options=CACHED)
