"""The benches' own parts: a row of real.py on a small net, and a child that is stopped at its limit."""

from __future__ import annotations

import json
from math import log
from pathlib import Path

import pytest
import torch

from edgecompress.sources import resolve
from tests.processes import ROOT

SETTING = {"keep": 0.4, "calibration": 12, "seed": 0, "scored": 200}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_row_of_real(capsys: pytest.CaptureFixture[str]) -> None:
    import real
    from real_nets import Net

    sample = resolve("lenet5")
    net = Net("lenet5", sample.build, sample.data("train"), sample.data("validation"))
    dense, small, _ = real.compressed(net, SETTING)
    row = real.scores(net, dense, small, 200)
    for line in capsys.readouterr().out.splitlines():
        row |= json.loads(line)
    inputs, labels = net.scored.batch(torch.arange(200))
    with torch.no_grad():
        ours, theirs = small(inputs), dense(inputs)
    assert row["accuracy"] == pytest.approx(100 * float((ours.argmax(1) == labels).float().mean()))
    assert row["agreement"] == pytest.approx(100 * float((ours.argmax(1) == theirs.argmax(1)).float().mean()))
    wanted = torch.nn.functional.kl_div(
        ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True
    )
    assert row["kl"] == pytest.approx(float(wanted), rel=1e-3)
    assert 0 < row["macs_kept"] <= 0.4
    assert row["plan"]["peak_mb"] > 100
    assert real.table([{**SETTING, **row, "net": "lenet5", "tag": "now"}]).count("\n") == 3


def test_a_child_at_its_limit(tmp_path: Path) -> None:
    from children import in_child

    script = tmp_path / "spin.py"
    script.write_text("print('{\"plan\": 1}', flush=True)\nwhile True: pass\n")
    assert in_child(str(script), {"net": "a"}, 1) == {"net": "a", "plan": 1, "not_done_s": 1}
    script.write_text("raise ValueError('too bad')")
    with pytest.raises(RuntimeError, match="too bad"):
        in_child(str(script), {}, 10)


def test_settings_say_how_many_inputs_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    import real

    monkeypatch.setattr(real, "available", lambda _name, _folder: True)
    monkeypatch.setattr("sys.argv", ["real.py", "--net", "fire", "lite1", "--keep", "0.5"])
    rows = real.settings(real.parsed())
    assert [row["scored"] for row in rows] == [2000, 2000, 250, 250]
    assert [row["calibration"] for row in rows] == [128, 500, 128, 500]


def test_whitening_loses_least_on_the_inputs_that_it_knows() -> None:
    from of_transformers import whitened_one

    from edgecompress.calibrating.moments import collect

    torch.manual_seed(0)
    model, inputs = (
        torch.nn.Sequential(torch.nn.Linear(12, 10, bias=False)),
        torch.randn(64, 12) * torch.arange(1.0, 13),
    )
    moments = collect(model, (inputs,), ["0"])["0"]
    (trial,) = whitened_one(model, "0", moments, [0.6])  # type: ignore[arg-type]
    rank = int(0.6 * 120 / 22)
    weight = model[0].weight.detach()
    low = weight + trial.change[0]
    assert int(torch.linalg.matrix_rank(low)) == rank
    sizes = torch.linalg.svdvals((inputs @ weight.T).double())
    best = float(sizes[rank:].square().sum())
    lost = float((inputs @ trial.change[0].T).double().square().sum())
    assert lost == pytest.approx(best, rel=1e-3)


def test_fidelity_of_equal_vectors_is_perfect_and_tables_have_every_row() -> None:
    import of_transformers

    vectors = torch.nn.functional.normalize(torch.randn(20, 6), dim=1)
    assert of_transformers.fidelity(vectors, vectors) == {"cosine": 1.0, "spearman": 1.0, "same_neighbour": 1.0}
    took = {"cpu_s": 1.0, "peak_mb": 10}
    of_all = {"net": "smollm2", "scored": 2}
    dense = {**of_all, "method": "dense", "lost": {"1.0": [1000.0, 1200.0]}}
    more = [round(1000 + 511 * log(2), 3), round(1200 + 511 * log(2), 3)]
    ours = {**of_all, "method": "budget", "seed": 0, "plan": took, "lost": {"0.8": more, "0.6": [2000.0, 2000.0]}}
    best = {**of_all, "method": "search", "search": 9, "lost": {"0.8": [1000.0, 1200.0]}, "search_took": took}
    theirs = {**of_all, "method": "svd_llm", "seed": 0, "lost": {"0.8": more}}
    encoder = {
        "net": "minilm",
        "seed": 1,
        "sentences": 9,
        "macs_kept": 0.68,
        "speed": [1.3, 1.2, 1.4],
        "plan": took,
        "refit": took,
        **of_transformers.fidelity(vectors, vectors),
    }
    file = {
        **of_all,
        "method": "file",
        "role": "dense",
        "precision": "fp32",
        "megabytes": 540.0,
        "lost": [1000.0, 1200.0],
    }
    timed = {"wall": [1.2, 1.1, 1.3], "cpu": [1.21, 1.2, 1.22]}
    fewer = {**file, "role": "keep0.8", "lost": more, "prompt": timed, "token": timed}
    text = of_transformers.table([dense, ours, theirs, best, encoder, file, fewer])
    times = "1.20 (1.10 to 1.30) | 1.21 (1.20 to 1.22)"
    assert f"| keep0.8, fp32 | 540 | 2.00 ± 0.00 | 1,024 | {times} | {times} |" in text
    assert "| dense, fp32 | 540 | 8.6 (dense) | 1,024 | - | - | - | - |" in text
    assert "| budget | 2.00 | 5.82 | 1 | 1,024 | 0.00 / 1.14 | 1 s, 0.0 GB |" in text
    assert "| search of 9 plans, beyond the budget | 1.00 | - | 1 | 1,024 | 0.00 | 1 s, 0.0 GB |" in text
    assert "| SVD-LLM, uniform | 2.00 | - | 1 | 1,024 | 0.00 | - |" in text
    assert "| 0.68, draw 1 | 1.000 | 1.000 | 1.000 | 9 | 1.30 (1.20 to 1.40) | - |" in text


def test_the_tables_are_those_of_the_results() -> None:
    import tables

    shown = tables.README.read_text()
    assert len(tables.benches()) >= 9
    for name in tables.benches():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        assert shown.partition(begin)[2].partition(end)[0] == tables.table(name), f"python benchmarks/{name}.py --table"
    measured = {file.stem for file in tables.README.with_name("results").glob("*.json*")}
    assert measured - set(tables.benches()) == {"training_speed", "tucker2_speed"}  # one sentence each, in docs/


def test_a_long_training_has_one_row_for_all_its_seeds() -> None:
    from training import LONG, tables

    model, method, _ = LONG[0]
    cuts = {"macs_cut": 0.72, "params_cut": 0.7, "before_fine_tuning": 88.0, "dense_accuracy": 92.0, "epochs": 3}
    scores = [(0, 91.0, 2.0, [1.9, 2.1]), (1, 91.4, 2.2, [2.1, 2.3])]
    rows = [
        {"model": model, "method": method, "seed": seed, **cuts, "accuracy": reached, "speedup": faster, "ci95": ci95}
        for seed, reached, faster, ci95 in scores
    ]
    expected = "| -72.0 % | 88.00 ± 0.00 | **91.20 ± 0.28** | 92.00 | 2 | 3 | resnet56 | 2.10x (1.90 to 2.30) |"
    assert f"| {model} {expected}\n" in tables(rows)


def test_the_table_of_latencies_has_a_row_for_each_file_that_took_turns() -> None:
    from latency import NETS, RULES, Work, table

    ratio = {base: {"value": 2.0, "ci95": [1.9, 2.1]} for base in ("dense", "dense-unrewritten")}
    row = {"net": NETS[1], "keep": 0.5, "macs_kept": 0.5, "accuracy": 91.0}
    winner = {"rule": "latency", "predicted": 2.05}
    rows = [{**row, "rule": "MACs", "stem": "a"}, {**row, "rule": "latency", "stem": "b", "winner": winner}]
    times = {
        "machine": "one", "versions": {}, "dense_ms": 1.0, "load": [0.5, 0.6],
        "speedup": dict.fromkeys(("a", "a-unrewritten", "b"), ratio),
    }  # fmt: skip
    text = table({"plans": rows, "times": {NETS[1]: times}})
    assert text.count("2.00x (1.90 to 2.10)") == 6
    assert text.count("| latency 0.5 (by latency) | 50 % | 91.00 % |") == 1
    assert text.count("file not rewritten") == 1
    assert text.count("2.05x") == 1
    sample = resolve("lenet5")
    known = [{"net": "lenet5", "rule": rule, "keep": keep} for rule, keep in RULES[1:]]
    assert Work(sample, Path(), known).missing() == [RULES[0]]


def test_files_beside_int8_are_each_compared_with_the_dense_one_of_their_net(monkeypatch, tmp_path: Path) -> None:
    import beside_int8
    from rows import Run

    answers: dict[str, dict[str, object]] = {
        "compress": {"cost": {"dense": {"macs": 9}, "compressed": {"macs": 4}}, "accuracy": {"decomposed": 70.0}},
        "profile": {
            "comparison": {
                "cpu_speedup": 2.0,
                "cpu_ci95": [1.9, 2.1],
                "runtime": {},
                "threads": 1,
                "blocks": 8,
                "loads": 8,
                "device": {"processor": "EPYC"},
                "conditions": {"before": {"load_average": 0.1}},
            }
        },
    }
    asked: list[tuple[str, ...]] = []

    def answer(*arguments: str) -> dict[str, object]:
        asked.append(arguments)
        score = {"artifact": 78.0 if "int8" in arguments else 80.0, "items": 10_000}
        made = {"path": f"{arguments[-2]}/model.onnx", "size_bytes": 1000, "score": score}
        return {"artifacts": [made]} if arguments[0] == "export" else answers[arguments[0]]

    monkeypatch.setattr(beside_int8, "asked", answer)
    runs = [Run("vgg", way, 0, beside_int8.OPTIONS) for way in beside_int8.WAYS]
    rows = [beside_int8.measured(run, [], tmp_path) for run in runs]
    assert [command[0] for command in asked].count("compress") == 1
    assert [(row["macs"], row["accuracy"]) for row in rows] == [(9, 80.0), (9, 78.0), (4, 80.0), (4, 78.0)]
    baselines = {command[3] for command in asked if command[0] == "profile"}
    assert baselines == {str(tmp_path / "vgg-dense" / "model.onnx")}
    assert "| vgg | int8 | 78.00 | -2.00 |" in beside_int8.table(rows)
