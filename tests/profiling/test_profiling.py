"""What is measured is kept, the ratio is right, and no claim is made that the interval does not carry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.artifacts import Artifact
from edgecompress.devices import Local, device_named
from edgecompress.devices.local import LocalSession
from edgecompress.errors import DeviceError, FileError, MissingExtra
from edgecompress.exporting import export
from edgecompress.files import Json
from edgecompress.profiling import compare, layers_of, measure, profile
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.latencies import Latency, Sustained
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import Ratio, paired_ratio, quantile, ratio_of_medians, statistics
from edgecompress.settings import Effort
from edgecompress.sources import resolve
from edgecompress.targets import runtimes
from tests.quick import measure_briefly

RUNTIMES = ("onnxruntime", "ai_edge_litert", "tflite_runtime", "executorch", "torch", "openvino", "ncnn", "importlib")
"""What the runner may import: each only for its own files, and torch for ExecuTorch."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """LeNet-5 (2.3 M MACs) and LeNet-300 (0.27 M MACs)."""
    folder = tmp_path_factory.mktemp("files")
    return {
        name: export((sample := resolve(name)).model(), sample, folder, stem=name) for name in ("lenet5", "lenet300")
    }


def test_a_profile_holds_every_run_and_says_where(files: dict[str, Artifact]) -> None:
    artifact = files["lenet5"]
    found = profile(artifact.path, Local(), runs=60, seconds=0.1)
    assert isinstance(found, Profile)
    assert len(found.latency.all_wall_ms()) >= 60
    assert found.device.provenance == "measured"
    assert found.device.cores >= 1
    assert found.runtime["name"] == "onnxruntime"
    assert (found.params, found.macs) == (431_080, 2_293_000)
    assert found.weight_bytes == pytest.approx(4 * 431_080, abs=100)
    assert found.weight_bytes < found.size_bytes
    assert found.zipped_bytes < found.size_bytes
    assert 0 < found.runtime_rss_bytes < found.peak_rss_bytes < 500e6
    assert found.cold is not None
    assert len(found.cold.load_ms) == len(found.cold.first_run_ms) == 3
    assert found.load_ms is not None
    assert found.load_ms > 0
    assert set(found.conditions) == {"before", "after"}
    assert found.device.more["memory_bytes"] > 1e8
    layers = {operator.layer for operator in found.operators if operator.kind in ("Conv", "Gemm", "FusedGemm")}
    assert layers == {"conv1", "conv2", "fc1", "fc2"}
    assert sum(operator.wall_ms for operator in found.operators) > 0
    assert Profile.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_model_of_a_ninth_of_the_macs_is_found_faster(files: dict[str, Artifact]) -> None:
    found = compare(files["lenet300"].path, files["lenet5"].path, Local(), seconds=0.3)
    assert isinstance(found, Comparison)
    assert found.verdict == "faster"
    assert found.wall.low <= found.wall.value <= found.wall.high
    assert len(found.baseline_latency.wall_ms) == len(found.candidate_latency.wall_ms) >= 20
    assert Comparison.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.slow
def test_a_model_against_itself_is_no_claim(files: dict[str, Artifact]) -> None:
    """Twice of at most three times: one interval in twenty does not hold the truth."""
    verdicts = []
    while verdicts.count("no claim") < 2:
        verdicts.append(compare(files["lenet5"].path, files["lenet5"].path, Local(), seconds=0.3).verdict)
        assert len(verdicts) - verdicts.count("no claim") < 2, verdicts


@pytest.fixture(scope="module")
def pair(files: dict[str, Artifact]) -> Json:
    """Two models compared, as a document whose ratios are still to be made up."""
    with pytest.MonkeyPatch.context() as patch:
        measure_briefly(patch)
        return compare(files["lenet300"].path, files["lenet5"].path, Local(), seconds=0.01, runs=2).to_json()


def comparison_with(wall: Ratio, cpu: Ratio, pair: Json) -> Comparison:
    document = dict(pair)
    document |= {"speedup": wall.value, "ci95": [wall.low, wall.high], "unstable": []}
    document |= {"cpu_speedup": cpu.value, "cpu_ci95": [cpu.low, cpu.high]}
    return Comparison.from_json(document)


def test_the_verdict_needs_wall_and_cpu_time_to_agree(pair: Json) -> None:
    fast, slow, unsure, tiny = (
        Ratio(1.5, 1.4, 1.6),
        Ratio(0.5, 0.4, 0.6),
        Ratio(1.1, 0.9, 1.3),
        Ratio(1.007, 1.005, 1.009),
    )
    base = comparison_with(fast, fast, pair)
    cases = {
        (fast, fast): "faster",
        (slow, slow): "slower",
        (fast, slow): "no claim",
        (fast, unsure): "no claim",
        (unsure, fast): "no claim",
        (tiny, tiny): "no claim",
        (fast, None): "faster",
    }
    for (wall, cpu), verdict in cases.items():
        document = base.to_json() | {"speedup": wall.value, "ci95": [wall.low, wall.high]}
        document |= {"cpu_speedup": cpu and cpu.value, "cpu_ci95": cpu and [cpu.low, cpu.high]}
        assert Comparison.from_json(document).verdict == verdict


def test_only_a_measured_arm_device_verifies_a_gain_on_arm(pair: Json) -> None:
    fast = comparison_with(Ratio(1.5, 1.4, 1.6), Ratio(1.5, 1.4, 1.6), pair).to_json()
    for machine, provenance, verified in (
        ("aarch64", "measured", True),
        ("armv7l", "measured", True),
        ("x86_64", "measured", False),
        ("aarch64", "emulated", False),
        ("aarch64", "predicted", False),
    ):
        device = {**fast["device"], "machine": machine, "provenance": provenance, "more": {"virtual": False}}
        found = Comparison.from_json({**fast, "device": device})
        assert found.verified_on_arm is verified
        assert found.to_json()["verified_on_arm"] is verified
        assert (found.verdict == "no claim") is (provenance != "measured")
        assert not Comparison.from_json({**fast, "device": device, "unstable": ["busy"]}).verified_on_arm


@pytest.mark.usefixtures("brief_measuring")
@pytest.mark.slow
def test_all_there_is_to_know_is_measured_in_one_session(files: dict[str, Artifact]) -> None:
    found = measure(
        files["lenet300"].path, files["lenet5"].path, Local(), Effort(seconds=0.05), threads=[1, 2], progress=_silent
    )
    assert isinstance(found.comparison, Comparison)
    assert [other.threads for other in found.more] == [2]
    assert isinstance(found.baseline, Profile)
    assert all(operator.again_ms is not None for operator in found.baseline.operators)
    layers = {row.name: row for row in layers_of(found)}
    assert layers["fc1"].dense > 0
    assert layers["conv2"].compressed is None
    assert layers["conv2"].slower is None


def _silent(what: str, done: int, of: int, detail: str = "") -> None:
    pass


@pytest.mark.slow
@pytest.mark.usefixtures("brief_measuring")
def test_under_sustained_load_windows_are_kept_and_drift_is_found(files: dict[str, Artifact]) -> None:
    found = compare(files["lenet300"].path, files["lenet5"].path, Local(), seconds=0.05, minutes=0.03)
    assert isinstance(found, Comparison)
    assert set(found.sustained) == {"candidate", "baseline"}
    assert all(len(sustained.wall_ms) >= 2 for sustained in found.sustained.values())
    steady, hot = [1 + 0.01 * (i % 3) for i in range(50)], [1 + 0.01 * i for i in range(50)]
    nothing = (None,) * 50
    assert not Sustained(tuple(range(50)), tuple(steady), nothing, nothing).drift.resolved
    drift = Sustained(tuple(range(50)), tuple(hot), nothing, nothing).drift
    assert drift.resolved
    assert drift.value == pytest.approx(1.445 / 1.045)
    with pytest.raises(ValueError, match="different length"):
        Sustained.from_json({"start_s": [0], "wall_ms": [1, 2], "clock_mhz": [None], "temperature_c": [None]})


@given(st.lists(st.floats(0.5, 2), min_size=3, max_size=20), st.floats(0.5, 2))
def test_a_ratio_of_medians_lies_within_its_interval(values: list[float], factor: float) -> None:
    ratio = ratio_of_medians([factor * value for value in values], values)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.value == pytest.approx(factor)


def test_the_ratio_cancels_what_disturbs_both() -> None:
    generator = np.random.default_rng(0)
    weather = np.exp(generator.normal(0, 0.5, 60))
    noise = generator.lognormal(0, 0.02, (2, 60, 7))
    baseline, candidate = (
        tuple(map(tuple, speed * weather[:, None] * n)) for speed, n in zip((1.3, 1.0), noise, strict=True)
    )
    ratio = paired_ratio(baseline, candidate, loads=[block // 10 for block in range(60)])
    assert ratio.value == pytest.approx(1.3, rel=0.01)
    assert 1.27 < ratio.low < 1.3 < ratio.high < 1.33


def test_the_interval_holds_the_truth_although_every_load_is_shifted() -> None:
    generator, held = np.random.default_rng(1), 0
    for trial in range(100):
        shifts = np.exp(generator.normal(0, 0.01, 8)).repeat(6)
        blocks = generator.lognormal(0, 0.005, (2, 48, 5))
        baseline, candidate = blocks[0] * shifts[:, None], blocks[1]
        loads = [block // 6 for block in range(48)]
        ratio = paired_ratio(*(tuple(map(tuple, side)) for side in (baseline, candidate)), loads, seed=trial)
        held += ratio.low <= 1.0 <= ratio.high
    assert held >= 85


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=50), st.floats(0, 1))
def test_quantiles_are_numpys(values: list[float], fraction: float) -> None:
    assert quantile(values, fraction) == pytest.approx(float(np.quantile(values, fraction)), rel=1e-9)


def test_statistics_are_ordered() -> None:
    found = statistics([3.0, 1.0, 2.0, 10.0])
    assert found.min == 1.0 <= found.p50 == 2.5 <= found.p90 <= found.p99 <= 10.0


def test_a_p99_is_shown_of_a_hundred_runs_or_more() -> None:
    for count, shown in ((99, None), (100, 98.01)):
        block = tuple(float(run) for run in range(count))
        made = Latency((block,), (), (0,)).statistics
        assert made.p99(made.wall) == (shown and pytest.approx(shown))


def test_latency_without_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="without runs"):
        Latency.from_json({"wall_ms": [[]], "cpu_ms": [[]], "loads": [0]})
    with pytest.raises(FileError, match="version 7"):
        Profile.from_json({"kind": "edgecompress.profile", "version": 7})


def test_the_bench_script_is_stand_alone_and_prints_one_json_object(files: dict[str, Artifact], tmp_path: Path) -> None:
    scripts = [Path(shutil.copy(file, tmp_path)) for file in runtimes.bench_files()]
    argv = [
        sys.executable,
        "-I",
        str(scripts[0]),
        str(files["lenet300"].path),
        "--runs",
        "5",
        "--seconds",
        "0.01",
        "--batch",
        "3",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=tmp_path)
    answer = json.loads(done.stdout)
    assert answer["batch"] == 3
    assert set(answer["models"][0]) == {"role", "path", "loads", "settled", "wall_ms", "cpu_ms"}
    assert set(answer["models"][0]["loads"]) == set(range(8))
    assert sorted(tmp_path.glob("*.py")) == sorted(scripts)
    assert not (tmp_path / "__pycache__").exists()
    imports = [
        line.split()[1].split(".")[0]
        for file in scripts
        for line in file.read_text().splitlines()
        if line.strip().startswith(("import ", "from "))
    ]
    assert set(imports) <= {*sys.stdlib_module_names, "numpy", *RUNTIMES, *(file.stem for file in scripts)}


THERE = LocalSession("local")


def test_a_failing_command_is_a_device_error_with_its_last_words() -> None:
    with pytest.raises(DeviceError, match="ended with 3: last words") as caught:
        THERE.run([sys.executable, "-c", "import sys; sys.stderr.write('last words'); sys.exit(3)"], timeout_s=30)
    assert caught.value.returncode == 3
    with pytest.raises(DeviceError, match="no answer within"):
        THERE.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout_s=0.5)
    alone = f"sleep 6543{os.getpid()}"  # no other run's, which may have been left behind
    THERE.run(["sh", "-c", f"{alone} & exit 0"], timeout_s=10)
    assert _ends(alone)
    with pytest.raises(DeviceError, match="cannot be started"):
        THERE.run(["/no/such/program"], timeout_s=1)


def _ends(command: str, within_s: float = 10) -> bool:
    """Whether none runs, or soon will: a process that was killed stays for a moment."""
    until, asked = time.monotonic() + within_s, ["pgrep", "-f", f"^{command}$"]
    while subprocess.run(asked, capture_output=True, check=False).returncode != 1:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_wrong_files_and_devices_are_named(tmp_path: Path, files: dict[str, Artifact]) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(files["lenet5"].path.read_bytes()[:2000])
    with pytest.raises(FileError, match=r"bad\.onnx: not a whole ONNX model"):
        profile(bad, Local())
    with pytest.raises(FileError, match="no such file"):
        profile(tmp_path / "none.onnx", Local())
    with pytest.raises(FileError, match="not a file any target reads"):
        profile(Path(__file__), Local())
    with pytest.raises(DeviceError, match=r"no device 'moon'; there are local, ssh:user@host\[:port\]"):
        device_named("moon")


def test_a_file_whose_runtime_is_not_installed_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "model.tflite").write_bytes(b"TFL3")
    with pytest.raises(MissingExtra, match=r"model\.tflite: its runtime is not installed.*edgecompress\[litert\]"):
        runtimes.opened(tmp_path / "model.tflite")
