"""Runners of the users': their true output, older and newer, and what damage does to it."""

from __future__ import annotations

import math
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.errors import DeviceError
from edgecompress.profiling.vendor_runners import RUNNERS, RunnerAnswer, as_latency, runner_of

OUTPUTS = Path(__file__).parents[1] / "data" / "runners"
GOOD = {
    "benchmark_model-2.19.txt": RunnerAnswer(190, 5.25483, 5.186, 6.021, 5.233, 7.412, 9.187, 14_270_490),
    "benchmark_model-2.4.txt": RunnerAnswer(50, 1950.34, 1827.568, 2089.954, None, 21.873, 2913.402, None),
    "onnxruntime_perf_test-1.22.txt": RunnerAnswer(50, 1.929024, 1.84733, 2.31017, 1.91264, 11.7931, 3.0, 35_299_328),
    "onnxruntime_perf_test-1.3.txt": RunnerAnswer(10, 84.3236, None, None, None, 60.94, None, 158_171_136),
    "executor_runner-1.5.txt": RunnerAnswer(5, 5.0924064, 5.040573, 5.14875, 5.101771, 12.486302, 7.114531, None),
    "executor_runner-0.6.txt": RunnerAnswer(11, 6.944644, None, None, None, None, None, None),
}


def read(file: str) -> str:
    return (OUTPUTS / file).read_text()


def parsed(file: str, text: str | None = None) -> RunnerAnswer:
    return RUNNERS[file.partition("-")[0]].parse(read(file) if text is None else text, device="adb:X")


@pytest.mark.parametrize("file", GOOD)
def test_each_output_is_read_in_milliseconds_and_bytes(file: str) -> None:
    answer, expected = parsed(file), GOOD[file]
    for field in RunnerAnswer.__dataclass_fields__:
        value = getattr(expected, field)
        assert getattr(answer, field) == (None if value is None else pytest.approx(value, rel=1e-6)), field


@pytest.mark.parametrize("file", GOOD)
def test_lines_may_end_as_on_a_terminal(file: str) -> None:
    assert parsed(file, read(file).replace("\n", "\r\n")) == parsed(file)


@pytest.mark.parametrize("file", GOOD)
def test_warnings_in_between_do_no_harm(file: str) -> None:
    text = "WARNING: linker: unsupported flags DT_FLAGS_1=0x8000001\n" + read(file).replace("\n", "\nW: odd\n", 3)
    assert parsed(file, text) == parsed(file)


def test_a_runner_that_ran_the_same_time_over_and_over_tells_one_figure() -> None:
    text = """INFO: count=50 curr=8(all same)

INFO: Inference timings in us: Init: 16, First inference: 24, Warmup (avg): 8, Inference (avg): 8
"""
    assert parsed("benchmark_model", text) == RunnerAnswer(50, 0.008, 0.008, 0.008, 0.008, 0.016, 0.024)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("benchmark_model-2.19.txt", "Inference (avg): 5254.83", "Inference (avg): 4254.83", "contradict"),
        ("benchmark_model-2.19.txt", "min=5186 max=6021", "min=6021 max=5186", "outside of least and most"),
        ("benchmark_model-2.19.txt", "INFO: count=", "INFO: counted=", "no number of runs"),
        ("benchmark_model-2.4.txt", "Inference timings", "Interference timings", "no mean inference time"),
        ("onnxruntime_perf_test-1.22.txt", "cost total: 1.929024", "cost total: 0.929024", "contradict"),
        ("onnxruntime_perf_test-1.22.txt", "P50 Latency: 0.0019", "P50 Latency: 0.1", "outside of least and most"),
        ("onnxruntime_perf_test-1.22.txt", "requests: 50", "requests: 5", "contradict"),
        ("executor_runner-0.6.txt", "in 76.391078", "in 0.000000", "no inference was timed"),
        ("onnxruntime_perf_test-1.22.txt", "size:35299328", "size:3", "for one thing"),
        ("onnxruntime_perf_test-1.22.txt", "Min Latency: 0", "Min Latency: -1", "negative"),
        ("onnxruntime_perf_test-1.3.txt", "Average inference", "Average", "no mean inference time"),
        ("executor_runner-1.5.txt", "successfully 6 time", "successfully 7 time", "number of runs contradict"),
        ("executor_runner-1.5.txt", "in 32.576563 ms", "in 42.576563 ms", "total contradict"),
        ("executor_runner-1.5.txt", "Model executed", "Execution of method forward failed", "logcat"),
    ],
)
def test_damaged_output_is_an_error_that_says_what_is_wrong(file: str, old: str, new: str, said: str) -> None:
    assert old in read(file)
    with pytest.raises(DeviceError, match=said) as caught:
        parsed(file, read(file).replace(old, new))
    assert caught.value.exit_code == 4
    assert "; last: " in str(caught.value)


def test_an_executor_runner_that_tells_no_times_is_too_old() -> None:
    with pytest.raises(DeviceError, match="take a newer one"):
        parsed("executor_runner-0.3.txt")


def test_a_single_cold_execution_is_no_measurement() -> None:
    lines = [
        line for line in read("executor_runner-1.5.txt").splitlines() if "of 6" not in line or "Iteration 1" in line
    ]
    text = "\n".join(lines).replace("1 of 6", "1 of 1").replace("6 time(s) in 32.576563", "1 time(s) in 7.114531")
    with pytest.raises(DeviceError, match="cold execution"):
        parsed("executor_runner", text)


@pytest.mark.parametrize("file", GOOD)
def test_output_cut_off_anywhere_before_its_figures_end_is_an_error_or_the_same_times(file: str) -> None:
    text, whole = read(file), parsed(file)
    for end in range(0, len(text), 7):
        try:
            answer = parsed(file, text[:end])
        except DeviceError:
            continue
        assert answer.runs == whole.runs
        assert answer.mean_ms == pytest.approx(whole.mean_ms, rel=0.01)


@pytest.mark.parametrize("name", RUNNERS)
@given(text=st.text())
def test_garbage_is_an_error_on_one_printable_line(name: str, text: str) -> None:
    with pytest.raises(DeviceError) as caught:
        RUNNERS[name].parse(text, device="adb:X")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", GOOD)
@given(data=st.data())
def test_output_with_a_random_change_never_gives_impossible_times(file: str, data: st.DataObject) -> None:
    text = read(file)
    place = data.draw(st.integers(0, len(text)))
    changed = text[:place] + data.draw(st.text("0123456789.e+-: \nms", max_size=9)) + text[place + 1 :]
    try:
        answer = parsed(file, changed)
    except DeviceError:
        return
    assert answer.runs >= 1
    assert math.isfinite(answer.mean_ms)
    assert answer.mean_ms > 0
    assert answer.problem == ""


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("benchmark_model", "benchmark_model"),
        ("android_aarch64_benchmark_model", "benchmark_model"),
        ("benchmark_model_plus_flex", "benchmark_model"),
        ("onnxruntime_perf_test", "onnxruntime_perf_test"),
        ("executor_runner", "executor_runner"),
    ],
)
def test_a_program_is_recognised_by_its_name(tmp_path: Path, file: str, name: str) -> None:
    (tmp_path / file).touch()
    assert runner_of(tmp_path / file).name == name


def test_an_unknown_program_and_a_missing_one_are_errors(tmp_path: Path) -> None:
    (tmp_path / "bench").touch()
    with pytest.raises(DeviceError, match="not a runner known here: benchmark_model, onnxruntime_perf_test, exec"):
        runner_of(tmp_path / "bench")
    with pytest.raises(DeviceError, match="no such file"):
        runner_of(tmp_path / "benchmark_model")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("benchmark_model", ["--graph=/m", "--num_threads=2", "--num_runs=50"]),
        (
            "onnxruntime_perf_test",
            ["-I", "-S", "0", "-e", "cpu", "-m", "times", "-r", "50", "-x", "2", "-y", "1", "-s", "/m"],
        ),
        ("executor_runner", ["--model_path=/m", "--num_executions=51", "--cpu_threads=2"]),
    ],
)
def test_model_threads_and_runs_are_asked_for(name: str, expected: list[str]) -> None:
    assert RUNNERS[name].command("/d/program", "/m", threads=2, runs=50)[4:] == ["/d/program", *expected]


def test_threads_may_be_left_to_the_runtime_and_memory_is_asked_for_apart() -> None:
    asked = RUNNERS["benchmark_model"].command("/p", "/m", threads=0, runs=1, memory=True)
    assert "--num_threads=-1" in asked
    assert "--report_peak_memory_footprint=true" in asked


def test_a_program_that_is_not_executable_yet_and_writes_to_standard_error_is_heard(tmp_path: Path) -> None:
    program = tmp_path / "executor_runner"
    program.write_text(
        f'#!/bin/sh\ncat {OUTPUTS / "executor_runner-1.5.txt"} >&2\necho "${{LD_LIBRARY_PATH%%:*}}" "$@"\n'
    )
    command = RUNNERS["executor_runner"].command(str(program), "/m", threads=1, runs=5)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert RUNNERS["executor_runner"].parse(done.stdout, device="local") == parsed("executor_runner-1.5.txt")
    assert f"{tmp_path} --model_path=/m" in done.stdout
    assert done.stderr == ""


def test_answers_become_blocks_of_their_medians_one_a_load() -> None:
    latency = as_latency([RunnerAnswer(50, 5.2, p50_ms=5.1), RunnerAnswer(50, 5.4, p50_ms=5.0)])
    assert latency.wall_ms == ((5.1,), (5.0,))
    assert latency.loads == (0, 1)
    assert latency.cpu_ms == ()


def test_answers_become_blocks_of_their_means_where_a_median_is_not_told() -> None:
    assert as_latency([RunnerAnswer(50, 5.2, p50_ms=5.1), RunnerAnswer(50, 5.4)]).wall_ms == ((5.2,), (5.4,))
