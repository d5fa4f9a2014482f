"""Training the factors of a model whose outputs are tokens, or values, towards the dense model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import edgecompress as ec
from edgecompress.decomposing import decompose
from edgecompress.errors import ModelError, TrainingError
from edgecompress.finetuning import batching, checkpoints, finetune, loop, running, state_digest
from edgecompress.finetuning.distillation import Distilled, token_distillation, value_distillation
from edgecompress.finetuning.running import changing
from edgecompress.models import Sample, untrained_copy
from edgecompress.models.kinds import IGNORED, token_loss
from edgecompress.planning import plan
from edgecompress.plans import CompressionPlan
from edgecompress.running.options import tuning_defaults
from edgecompress.selectors import Budget
from edgecompress.settings import FineTuning, Scope
from edgecompress.sources.compressed_folder import rebuilt

VOCABULARY, LENGTH, WIDTH = 17, 8, 24
SETTINGS = FineTuning(
    epochs=2, optimizer="adam", lr=3e-3, distill=0.7, temperature=1.0, batch_size=8, train="factors", schedule="cosine"
)


class Language(nn.Module):
    """Tokens to scores of the next, from all before; the head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.LayerNorm(WIDTH)
        self.wide, self.drop, self.narrow = nn.Linear(WIDTH, 48), nn.Dropout(0.1), nn.Linear(48, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        known = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        sums = known.cumsum(1) / torch.arange(1, known.shape[1] + 1).view(1, -1, 1)
        hidden = self.norm(known + self.narrow(self.drop(self.wide(sums + known).relu())))
        return hidden @ self.embedding.weight.T


def trained() -> Language:
    torch.manual_seed(0)
    return Language().eval()


def texts(split: str, count: int = 64) -> TensorDataset:
    """Each token decides the next but for noise; a third of all texts end early."""
    generator = torch.Generator().manual_seed(len(split))
    steps = torch.randint(1, 3, (count, LENGTH), generator=generator)
    tokens, mask = (3 * steps).cumsum(1) % VOCABULARY, torch.ones(count, LENGTH, dtype=torch.long)
    mask[::3, 5:] = 0
    after = torch.full_like(tokens, IGNORED)
    after[:, :-1] = torch.where(mask[:, 1:] != 0, tokens[:, 1:], IGNORED)
    return TensorDataset(tokens, mask, after)


@pytest.fixture(scope="module")
def language() -> tuple[Sample, nn.Module, nn.Module, CompressionPlan]:
    """A token model that has learned, cut to half of its Linears by their weights alone."""
    tokens, mask, _ = texts("train")[:2]
    example = {"input_ids": tokens, "attention_mask": mask}
    sample = Sample("language", "language", trained, example, texts, outputs="tokens")  # type: ignore[arg-type]
    learned = finetune(sample.model(), sample, replace(SETTINGS, epochs=12, lr=0.02, distill=0.0, train="all")).model
    sample = replace(sample, build=lambda: learned)
    dense = sample.model()
    made = plan(dense, sample.inputs, Budget(0.6, "params"), multiple=1, include=("wide", "narrow"), methods=("svd",))
    assert {layer.name for layer in made.layers} == {"wide", "narrow"}
    return sample, dense, decompose(dense, made), made


def test_factors_learn_and_everything_else_stays_to_the_bit(language: tuple) -> None:
    sample, dense, small, made = language
    done = finetune(small, sample, replace(SETTINGS, epochs=4, distill=1.0), teacher=dense, plan=made)
    assert done.history[-1].loss < 0.7 * done.history[0].loss
    assert done.best_score > ec.score(small, sample, "validation") + 0.05
    ours, before = done.model.state_dict(), small.state_dict()
    moved = {name.split(".")[0] for name in ours if not torch.equal(ours[name], before[name])}
    assert moved == {"wide", "narrow"}
    assert all(parameter.requires_grad for parameter in (*done.model.parameters(), *small.parameters()))


def test_only_factors_are_kept_for_the_optimizer_and_in_checkpoints(language: tuple, tmp_path: Path) -> None:
    sample, dense, small, made = language
    stop_at(sample, dense, small, made, tmp_path / "checkpoint.pt", epoch=2, step=1)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    factors = {name for name in small.state_dict() if name.split(".")[0] in {"wide", "narrow"}}
    assert set(kept["model"]) == set(kept["best"]) == factors
    assert len(kept["optimizer"]["state"]) == len(factors)


class Stop(Exception):
    """Stands for Ctrl-C."""


def stop_at(
    sample: Sample, dense: nn.Module, small: nn.Module, made: CompressionPlan, checkpoint: Path, epoch: int, step: int
) -> None:
    def listen(name: str, done: int, _total: int, _detail: str) -> None:
        if f"epoch {epoch} " in name and done == step:
            raise Stop

    with pytest.raises(Stop):
        finetune(small, sample, SETTINGS, teacher=dense, plan=made, checkpoint=checkpoint, progress=listen)


def test_a_run_stopped_within_an_epoch_goes_on_from_there_to_the_same_weights(
    language: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout draws on from where it was; what is written while the clock stands is written after every step."""
    monkeypatch.setattr(running, "SAVE_S", 0.0)
    monkeypatch.setattr(running, "SAVE_SHARE", 1e9)
    sample, dense, small, made = language
    whole = finetune(small, sample, SETTINGS, teacher=dense, plan=made)
    checkpoint, steps = tmp_path / "checkpoint.pt", list[tuple[str, int]]()
    stop_at(sample, dense, small, made, checkpoint, epoch=2, step=5)
    resumed = finetune(
        small,
        sample,
        SETTINGS,
        teacher=dense,
        plan=made,
        checkpoint=checkpoint,
        progress=lambda name, done, *_: steps.append((name, done)),
    )
    assert steps[0] == ("fine-tune, epoch 2 of 2", 5)
    assert state_digest(resumed.model) == state_digest(whole.model)
    assert resumed.history == whole.history


def test_checkpoints_of_the_version_before_are_read(language: tuple, tmp_path: Path) -> None:
    sample, dense, small, made = language
    whole = finetune(small, sample, SETTINGS, teacher=dense, plan=made)
    checkpoint = tmp_path / "checkpoint.pt"
    stop_at(sample, dense, small, made, checkpoint, epoch=2, step=1)
    state = torch.load(checkpoint, weights_only=True)
    del state["version"], state["within"]
    state["model"] = {**small.state_dict(), **state["model"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "VERSION", 3)
        checkpoints.save(state, checkpoint)
    resumed = finetune(small, sample, SETTINGS, teacher=dense, plan=made, checkpoint=checkpoint)
    assert state_digest(resumed.model) == state_digest(whole.model)


def test_an_epoch_of_some_items_goes_on_where_the_last_one_ended(language: tuple) -> None:
    sample, dense, small, made = language
    seen = list[Tensor]()
    watched = replace(sample, augment=lambda given, _: seen.append(given["input_ids"]) or given)
    short = replace(SETTINGS, epochs=4, train_items=24)
    done = finetune(small, watched, short, teacher=dense, plan=made)
    assert [len(epoch) for epoch in (seen, done.history)] == [4 * 3, 4]
    rows = [tuple(row.tolist()) for row in torch.cat(seen)]
    every = [tuple(row.tolist()) for row in texts("train").tensors[0]]
    assert sorted(rows[:64]) == sorted(every)
    assert rows[:64] != every


def test_a_pass_over_all_items_has_the_order_it_always_had() -> None:
    for epoch in (1, 2, 5):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(7 * 100_003 + epoch))
        assert torch.equal(batching.next_items(10, 10, epoch, 7 * 100_003), order)


def test_parts_of_a_batch_count_by_their_tokens(language: tuple) -> None:
    """A third of all texts is shorter; alone in a part they must not count for more."""
    sample, dense, small, made = language
    still = replace(SETTINGS, lr=1e-9, epochs=1)
    whole, parts = (finetune(small, sample, replace(still, accumulate=n), teacher=dense, plan=made) for n in (1, 8))
    assert parts.history[0].loss == pytest.approx(whole.history[0].loss, rel=0.02)
    inputs, targets = texts("train")[:8][:2], texts("train")[:8][2]
    objective = Distilled(sample, SETTINGS, dense)
    at_once = objective.loss(small, inputs, targets)
    counts = (targets != IGNORED).sum(1)
    one_by_one = [objective.loss(small, tuple(t[i : i + 1] for t in inputs), targets[i : i + 1]) for i in range(8)]
    weighed = sum(loss * count for loss, count in zip(one_by_one, counts, strict=True)) / counts.sum()
    torch.testing.assert_close(weighed, at_once)
    assert [batching.counting(sample, targets), batching.counting(replace(sample, outputs="values"), targets)] == [
        int(counts.sum()),
        8,
    ]


def test_large_outputs_make_small_parts(language: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, _, small, _ = language
    given = (small, sample, sample.data("train"), SETTINGS)
    assert batching.at_once_of(*given) == 8
    monkeypatch.setattr(batching, "OUTPUT_BYTES", 2 * LENGTH * VOCABULARY * 4)
    assert batching.at_once_of(*given) == 2
    monkeypatch.setattr(batching, "OUTPUT_BYTES", 1)
    assert batching.at_once_of(*given) == 1


def test_a_long_training_says_its_length_beforehand(
    language: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, dense, small, made = language
    finetune(small, sample, SETTINGS, teacher=dense, plan=made)
    assert "note" not in capsys.readouterr().err
    monkeypatch.setattr(loop, "LONG_S", 0.0)
    monkeypatch.setattr(loop, "UNSEEN_S", 0.0)
    seen = list[tuple[str, int, int]]()
    finetune(
        small,
        sample,
        SETTINGS,
        teacher=dense,
        plan=made,
        what="tune tokens",
        progress=lambda name, done, total, _: seen.append((name, done, total)),
    )
    assert seen.count(("tune tokens, validation", 64, 64)) == 3
    said = capsys.readouterr().err
    assert "tune tokens: about " in said
    assert "epochs: 2, of 8 steps each" in said
    assert "--train-items" in said


def test_the_divergence_of_tokens_is_that_of_the_positions_that_count() -> None:
    ours, theirs = torch.randn(2, 3, 5, 7)
    targets = torch.randint(0, 7, (3, 5))
    targets[0, 2:] = targets[2] = IGNORED
    counts = targets != IGNORED
    p, q = (scores[counts].double().softmax(1) for scores in (ours, theirs))
    expected = (q * (q / p).log()).sum(1).mean()
    assert float(token_distillation(ours, theirs, targets, 1.0)) == pytest.approx(float(expected), rel=1e-5)
    ours[~counts] = 1e4
    assert float(token_distillation(ours, theirs, targets, 1.0)) == pytest.approx(float(expected), rel=1e-5)
    assert float(token_distillation(theirs, theirs, targets, 2.0)) == pytest.approx(0, abs=1e-6)
    p, q = ((scores[counts].double() / 2).softmax(1) for scores in (ours, theirs))
    expected = 4 * (q * (q / p).log()).sum(1).mean()
    assert float(token_distillation(ours, theirs, targets, 2.0)) == pytest.approx(float(expected), rel=1e-5)


def test_texts_of_nothing_but_padding_teach_nothing() -> None:
    scores, targets = torch.randn(2, 4, 5, requires_grad=True), torch.full((2, 4), IGNORED)
    loss = token_loss(scores, targets) + token_distillation(scores, torch.randn(2, 4, 5), targets, 1.0)
    loss.backward()
    assert float(loss.detach()) == 0
    assert not scores.grad.any()


def test_values_are_told_apart_by_their_distance() -> None:
    ours, theirs = torch.randn(4, 3), torch.randn(4, 3)
    expected = (ours - theirs).square().sum() / theirs.square().sum()
    torch.testing.assert_close(value_distillation(ours, theirs), expected)
    both = value_distillation({"a": ours, "b": theirs, "n": torch.ones(4).long()}, {"a": theirs, "b": theirs, "n": 1})
    torch.testing.assert_close(both, expected / 2)
    for wrong in ((ours, theirs[:2]), (torch.ones(2).long(), torch.ones(2).long())):
        with pytest.raises(ModelError, match="--distill 0"):
            value_distillation(*wrong)


def test_a_model_of_values_learns_from_the_dense_model_alone() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 6)).eval()
    data = TensorDataset(torch.randn(96, 12), torch.zeros(96))
    score = lambda outputs, _: -float(outputs.square().mean())  # noqa: E731 - one of the user's
    sample = Sample("values", "", lambda: dense, torch.randn(4, 12), lambda _: data, outputs="values", score=score)  # type: ignore[arg-type]
    made = plan(dense, sample.inputs, Budget(0.6, "params"), multiple=1, methods=("svd",))
    small = decompose(dense, made)
    settings = replace(SETTINGS, distill=1.0, epochs=8, lr=0.02, batch_size=16, pick="last")
    done = finetune(small, sample, settings, teacher=dense, plan=made)
    apart = [
        float(value_distillation(model(sample.inputs[0]), dense(sample.inputs[0])).detach())
        for model in (small, done.model)
    ]
    assert apart[1] < 0.7 * apart[0]


def test_what_cannot_be_trained_is_refused(language: tuple) -> None:
    sample, dense, small, made = language
    with pytest.raises(TrainingError, match="--train all"):
        finetune(small, sample, SETTINGS, teacher=dense)
    with pytest.raises(ModelError, match="--mixup 0"):
        finetune(small, sample, replace(SETTINGS, mixup=0.2), teacher=dense, plan=made)


def test_a_frozen_copy_shares_numbers_and_nothing_else(language: tuple) -> None:
    small = language[2]
    view = untrained_copy(small)
    assert not changing(view).keys() & {name for name, _ in small.named_parameters()}
    assert view.embedding.weight.data_ptr() == small.embedding.weight.data_ptr()
    view.double()
    assert small.embedding.weight.dtype == torch.float32
    assert all(parameter.requires_grad for parameter in small.parameters())


def test_the_whole_line_trains_the_factors_of_tokens_by_itself(language: tuple, tmp_path: Path) -> None:
    sample = language[0]
    usual = tuning_defaults(sample)
    assert (usual["train"], usual["optimizer"], usual["batch_size"]) == ("factors", "adam", 8)
    assert "train" not in tuning_defaults(sample, coded=True)
    tuning = FineTuning(**{**usual, "epochs": 2, "lr": 3e-3})
    by, scope = Budget(0.6, "params"), Scope(("svd",), 1, ("wide", "narrow"))
    ec.compress(sample, tmp_path, selector=by, scope=scope, tuning=tuning, calibrate=16)
    ours, dense = rebuilt(sample, tmp_path).model(), sample.model()
    assert torch.equal(ours.embedding.weight, dense.embedding.weight)
    assert torch.equal(ours.norm.weight, dense.norm.weight)
    assert {layer.name for layer in CompressionPlan.load(tmp_path / "plan.json").layers} == {"wide", "narrow"}


def architecture(name: str) -> nn.Module:
    """A tiny one of transformers."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {
        "Llama": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        "GPT2": {"n_positions": 32, "n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0},
    }
    ends = {"bos_token_id": 1, "eos_token_id": 2, "use_cache": False, "initializer_range": 0.3}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(vocab_size=VOCABULARY, **sizes[name], **ends)
    built: nn.Module = getattr(transformers, f"{name}{'ForCausalLM' if name == 'Llama' else 'LMHeadModel'}")(config)
    return built.eval()


@pytest.mark.parametrize("name", ["Llama", "GPT2"])
def test_factors_of_known_architectures_learn(name: str) -> None:
    tokens, mask, _ = texts("train")[:2]
    example = {"input_ids": tokens, "attention_mask": mask}
    built = architecture(name)
    sample = Sample("tiny", "tiny", lambda: built, example, texts, outputs="tokens")  # type: ignore[arg-type]
    dense = sample.model()
    made = plan(dense, sample.inputs, Budget(0.7, "params"), multiple=1, methods=("svd",))
    small, factors = decompose(dense, made), tuple(f"{layer.name}." for layer in made.layers)
    assert len(factors) > 2
    settings = replace(SETTINGS, distill=1.0, epochs=3, lr=0.01, pick="last")
    done = finetune(small, sample, settings, teacher=dense, plan=made)
    assert done.history[-1].loss < 0.5 * done.history[0].loss
    before = small.state_dict()
    moved = {name for name, now in done.model.state_dict().items() if not torch.equal(now, before[name])}
    assert moved
    assert all(name.startswith(factors) for name in moved)
