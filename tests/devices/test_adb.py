"""A phone over adb: a scripted ``adb`` with a folder for a phone, with and without the shell protocol, with Android's
shell and tools (mksh and toybox); and a real adbd.

EDGECOMPRESS_ADBD names a folder with Debian's package ``adbd`` (from trixie on) and what it depends on, unpacked by
``dpkg-deb -x``; it is run in a network of its own, which needs root.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgecompress.devices.adb import Adb, parse
from edgecompress.devices.base import DeviceOptions, is_counting, is_page
from edgecompress.errors import DeviceError, FileError
from edgecompress.exporting import export
from edgecompress.profiling import measure
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.profiles import Profile
from edgecompress.settings import Effort
from edgecompress.sources import resolve
from edgecompress.targets.runtimes import bench_files

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERIAL = "R58N000XYZ"
ADDRESS = "127.0.0.1:5555"
PYTHON = DeviceOptions(remote_python=sys.executable)
WEIRD = ["a b", "$HOME", "`id`", "'", '"', "*", "\\", "é", "", "two\nlines", "-n", "&& exit 1"]
PRINT_ARGUMENTS = "import json, sys; print(json.dumps(sys.argv[1:]))"


@dataclass(frozen=True)
class Phone:
    """Something that adb reaches; ``mood`` makes the scripted one misbehave from now on."""

    serial: str
    programs: Path

    def mood(self, mood: str) -> None:
        (self.programs.parent / "phone" / "mood").write_text(mood)

    def device(self, options: DeviceOptions = PYTHON) -> Adb:
        return parse(self.serial, options)

    def session(self):
        return self.device().session(["json"])


def scripted(folder: Path) -> Phone:
    programs = folder / "bin"
    for made in (programs, folder / "phone"):
        made.mkdir()
    (programs / "adb").write_text(f"#!{sys.executable} -IS\n" + (HERE / "scripted_adb.py").read_text())
    (programs / "adb").chmod(0o755)
    phone = Phone(SERIAL, programs)
    phone.mood("")
    return phone


def with_android_programs(programs: Path) -> None:
    """Nothing but what Android has: mksh for a shell, and toybox."""
    shell, toybox = shutil.which("mksh"), shutil.which("toybox")
    if shell is None or toybox is None:
        pytest.skip("needs apt-get install mksh toybox")
    programs.mkdir()
    (programs / "sh").symlink_to(shell)
    for name in subprocess.run([toybox], capture_output=True, text=True, check=True).stdout.split():
        (programs / name).symlink_to(toybox)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[Phone, subprocess.Popen[bytes]]]:
    """A real adbd in a network of its own, and an ``adb`` that goes there."""
    root = Path(os.environ.get("EDGECOMPRESS_ADBD", ""))
    loader = next(root.glob("usr/lib/*/ld-linux*.so*"), None) if root.name else None
    adb = shutil.which("adb")
    if loader is None or adb is None or os.geteuid():
        pytest.skip("needs root, apt-get install adb, and EDGECOMPRESS_ADBD: a folder with Debian's adbd unpacked")
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "ip link set lo up; exec cat"], stdin=subprocess.PIPE)
    network = ours = Path("/proc/self/ns/net").readlink()
    while network == ours:
        network = Path(f"/proc/{holder.pid}/ns/net").readlink()
    inside = ["nsenter", "-t", str(holder.pid), "-n"]
    argv = [*inside, loader, "--library-path", f"{loader.parent}:{loader.parent}/android"]
    argv += [root / "usr/lib/android-sdk/platform-tools/adbd"]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(argv, stdout=log, stderr=log, cwd="/", env={**os.environ, "HOME": str(folder)})
    (folder / "adb").write_text(f'#!/bin/sh\nHOME={folder} exec {" ".join(inside)} {adb} "$@"\n')
    (folder / "adb").chmod(0o755)
    for _ in range(50):
        done = subprocess.run([folder / "adb", "connect", ADDRESS], capture_output=True, text=True, check=False)
        if done.stdout.startswith("connected"):
            break
        time.sleep(0.1)
    try:
        yield Phone(ADDRESS, folder), daemon
    finally:
        for place in Path("/proc").glob("[0-9]*/ns/net"):
            with contextlib.suppress(OSError):
                if place.readlink() == network:
                    os.kill(int(place.parts[2]), signal.SIGKILL)
        daemon.wait()
        holder.communicate()


@pytest.fixture(scope="session")
def adbd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Phone]:
    """One for all tests that leave it alive."""
    with serving(tmp_path_factory.mktemp("adbd")) as (phone, _):
        yield phone


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    """The scripted one."""
    made = scripted(tmp_path)
    monkeypatch.setenv("PATH", str(made.programs), prepend=os.pathsep)
    return made


PHONES = [
    pytest.param("scripted", marks=pytest.mark.slow), "scripted, old", "scripted, Android's shell", "adbd",
]  # fmt: skip


@pytest.fixture(params=PHONES)
def any_phone(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Phone:
    """Each in turn."""
    made = request.getfixturevalue("adbd") if request.param == "adbd" else scripted(tmp_path)
    if request.param == "scripted, old":
        (tmp_path / "phone" / "old").touch()
    if request.param == "scripted, Android's shell":
        with_android_programs(tmp_path / "phone" / "bin")
    monkeypatch.setenv("PATH", str(made.programs), prepend=os.pathsep)
    return made


def running(folder: str) -> list[str]:
    """The processes of a session, which carry its name in their environment."""
    mark = b"EDGECOMPRESS_SESSION=" + Path(folder).name.encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in file.read_bytes():
                found.append(file.parent.name)
    return found


def gone(folder: str) -> bool:
    """Whether nothing runs or lies there any more, or soon will."""
    for _ in range(100):
        if not running(folder) and not Path(folder).exists():
            return True
        time.sleep(0.1)
    return False


# -- what can be said before anything is touched -----------------------------------------------------------------------


@pytest.mark.parametrize("serial", ["-s", "a b", "a;b", "$(id)", "a\n", "", "é", "../x"])
def test_what_is_no_serial_number_is_refused(serial: str) -> None:
    with pytest.raises(DeviceError, match="not a serial number"):
        parse(serial, PYTHON)


@pytest.mark.parametrize("serial", ["R58N000XYZ", "127.0.0.1:5555", "adb-1A2B._adb-tls-connect._tcp", "emulator-5554"])
def test_serial_numbers_of_all_kinds_are_taken(serial: str) -> None:
    assert parse(serial, PYTHON).name == f"adb:{serial}"


@pytest.mark.parametrize(
    "options", [DeviceOptions(), DeviceOptions(remote_python="/usr/bin/python3", python_bundle=Path("python"))]
)
def test_it_must_be_said_what_measures_there(options: DeviceOptions) -> None:
    with pytest.raises(DeviceError, match=r"--python-bundle FOLDER.*--remote-python /PATH.*--runner PROGRAM"):
        parse(SERIAL, options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DeviceOptions(remote_python="python3"), "whole path"),
        (DeviceOptions(python_bundle=HERE), "no folder with a run.sh"),
        (DeviceOptions(runner=HERE / "benchmark_model"), "no such file"),
        (DeviceOptions(remote_python="/bin/python3", identity=HERE), "--identity is of no use"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: DeviceOptions, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        parse(SERIAL, options)


def test_without_adb_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="apt-get install adb"), parse(SERIAL, PYTHON).session([]):
        pass


@pytest.mark.parametrize(
    ("mood", "way"),
    [
        ("unauthorized", "unlock it and accept"),
        ("offline", "adb reconnect offline"),
        ("no permissions (user in plugdev group; are your udev rules wrong?)", "android-sdk-platform-tools-common"),
        ("recovery", "allow USB debugging"),
        ("absent", f"adb connect {SERIAL}"),
    ],
)
def test_a_phone_that_does_not_listen_is_an_error_with_its_state_the_way_out_and_the_list(
    phone: Phone, mood: str, way: str
) -> None:
    phone.mood(mood)
    with pytest.raises(DeviceError) as caught, phone.session():
        pass
    message = str(caught.value)
    assert message.startswith(f"adb:{SERIAL}: adb says that {SERIAL} is ")
    assert way in message
    assert "emulator-5554 (offline)" in message
    assert caught.value.exit_code == 4


# -- transport, on each kind of phone ----------------------------------------------------------------------------------


def test_arguments_arrive_as_they_are(any_phone: Phone) -> None:
    with any_phone.session() as session:
        text = session.run([*session.python, "-c", PRINT_ARGUMENTS, *WEIRD], timeout_s=20)
    assert json.loads(text) == WEIRD


def test_output_comes_back_exactly_and_without_what_went_to_standard_error(any_phone: Phone) -> None:
    with any_phone.session() as session:
        assert session.run(["sh", "-c", "printf 'one\\n\\ntwo'; echo three >&2"], timeout_s=20) == "one\n\ntwo"


def test_a_command_that_fails_is_an_error_with_its_code_and_last_words(any_phone: Phone) -> None:
    with any_phone.session() as session:
        for script, code in (("exit 3", 3), ("kill -9 $$", 137), ("no-such-program", 127)):
            with pytest.raises(DeviceError, match="oops") as caught:
                session.run(["sh", "-c", f"echo fine; echo oops >&2; {script}"], timeout_s=20)
            assert caught.value.returncode == code, script
            assert session.run(["echo", "still", "here"], timeout_s=20) == "still here\n"


def test_files_and_folders_arrive_whole_and_private(any_phone: Phone, tmp_path: Path) -> None:
    one, other, folder = tmp_path / "a b.bin", tmp_path / "x" / "a b.bin", tmp_path / "bundle"
    for made in (other.parent, folder / "lib" / "deep"):
        made.mkdir(parents=True)
    one.write_bytes(os.urandom(100_000))
    other.write_bytes(b"")
    (folder / "lib" / "deep" / "it's.so").write_bytes(b"\x7fELF\r\n")
    with any_phone.session() as session:
        there, beside, whole = session.push(one), session.push(other, tmp_path / "x" / "a b.bin"), session.push(folder)
        assert there != beside
        assert Path(there).read_bytes() == one.read_bytes()
        assert Path(beside).read_bytes() == b""
        assert Path(whole, "lib", "deep", "it's.so").read_bytes() == b"\x7fELF\r\n"
        assert Path(session.folder).stat().st_mode & 0o777 == 0o700
    assert gone(session.folder)


def test_what_takes_too_long_is_ended_there_with_all_it_started(any_phone: Phone) -> None:
    with any_phone.session() as session:
        with pytest.raises(DeviceError, match=r"within 1 s .*begun"):
            session.run(["sh", "-c", "echo begun; sleep 1000 & sleep 1000"], timeout_s=1)
        assert not running(session.folder)


def test_a_device_that_cannot_tell_digests_is_asked_for_sizes(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    with phone.session() as whole:
        session = replace(whole, digests=False)
        assert Path(session.push(tmp_path / "file")).read_bytes() == b"12345"


def test_commands_that_end_at_once_tell_their_own_code_and_leave_no_watchdog(any_phone: Phone) -> None:
    with any_phone.session() as session:
        for _ in range(8):
            assert session.run(["true"], timeout_s=500) == ""
        assert not running(session.folder)


def test_two_sessions_at_once_do_not_see_each_other(any_phone: Phone) -> None:
    with any_phone.session() as first:
        with any_phone.session() as second:
            assert first.folder != second.folder
            first.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 &"], timeout_s=20)
        assert gone(second.folder)
        assert running(first.folder)
    assert gone(first.folder)


def test_facts_are_those_of_the_kernel_there(any_phone: Phone) -> None:
    with any_phone.session() as session:
        facts = session.facts()
    assert facts["machine"] == os.uname().machine
    assert facts["cores"] > 0
    assert facts["memory_bytes"] > 1 << 20
    assert all(value not in ("", None, []) for value in facts.values())
    assert facts.get("processor", "").strip() == facts.get("processor", "")


def test_facts_of_a_phone_are_read_from_its_properties_and_battery(phone: Phone) -> None:
    for name, script in {
        "getprop": 'case $1 in ro.product.model) echo "Pixel 8";; ro.build.version.release) echo 15;; esac',
        "dumpsys": "printf '  AC powered: false\\n  USB powered: true\\n  level: 81\\n  temperature: 285\\n'",
    }.items():
        (phone.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (phone.programs / name).chmod(0o755)
    with phone.session() as session:
        facts = session.facts()
    assert (facts["model"], facts["android"]) == ("Pixel 8", "15")
    assert facts["battery"] == {"level": 81, "temperature_c": 28.5, "power": ["USB"]}
    assert "abi" not in facts
    assert "virtual" not in facts


# -- what measures there -----------------------------------------------------------------------------------------------


def test_a_python_that_lacks_a_module_is_an_error(any_phone: Phone) -> None:
    with pytest.raises(DeviceError, match="no_such_runtime"), any_phone.device().session(["json", "no_such_runtime"]):
        pass


def test_a_bundle_is_pushed_and_started_by_its_script(any_phone: Phone, tmp_path: Path) -> None:
    bundle = tmp_path / "python"
    bundle.mkdir()
    (bundle / "run.sh").write_text('exec "$(dirname "$0")/interpreter" "$@"\n')
    (bundle / "interpreter").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (bundle / "interpreter").chmod(0o755)
    with any_phone.device(DeviceOptions(python_bundle=bundle)).session(["json"]) as session:
        assert session.python[1].startswith(session.folder)
        assert session.run([*session.python, "-c", "print(6 * 7)"], timeout_s=20) == "42\n"


def test_with_a_runner_there_is_no_python(any_phone: Phone, tmp_path: Path) -> None:
    program = tmp_path / "benchmark_model"
    program.write_text("#!/bin/sh\necho measured\n")
    program.chmod(0o755)
    with any_phone.device(DeviceOptions(runner=program)).session(["onnxruntime"]) as session:
        assert session.run([session.push(program)], timeout_s=20) == "measured\n"
        with pytest.raises(DeviceError, match="there is no Python"):
            _ = session.python


@pytest.mark.slow
@pytest.mark.usefixtures("brief_measuring")
def test_a_model_is_measured_there(any_phone: Phone, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "small", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    with any_phone.device().session(["numpy", "onnxruntime"]) as session:
        there = [session.push(*bench_files()), session.push(tmp_path / "m.onnx")]
        asked = ["--runs", "20", "--seconds", "0.05", "--loads", "2", "--warmup-seconds", "0.2"]
        answer = json.loads(session.run([*session.python, *there, *asked], timeout_s=60))
    assert answer["runtime"]["name"] == "onnxruntime"
    assert sum(map(len, answer["models"][0]["wall_ms"])) >= 20
    assert gone(session.folder)


# -- what can go wrong on the way --------------------------------------------------------------------------------------


def test_a_full_phone_is_an_error_in_its_words(phone: Phone) -> None:
    with phone.session() as session:
        phone.mood("full")
        with pytest.raises(DeviceError, match=r"cannot copy test_adb\.py there: .*No space left"):
            session.push(Path(__file__))
    assert gone(session.folder)


def test_a_file_that_arrives_damaged_is_an_error(phone: Phone) -> None:
    with phone.session() as session:
        phone.mood("damage")
        with pytest.raises(DeviceError, match="1 of 1 files did not arrive whole"):
            session.push(Path(__file__))


def test_a_phone_that_hangs_is_given_up_on(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecompress.devices.adb.link.GRACE_S", 0.5)
    monkeypatch.setattr("edgecompress.devices.adb.link.ANSWER_S", 0.5)
    with phone.session() as session:
        phone.mood("hang")
        with pytest.raises(DeviceError, match=r"no answer within 0\.6 s"):
            session.run(["true"], timeout_s=0.1)
        phone.mood("")


def test_garbage_instead_of_an_answer_is_an_error_without_control_characters(phone: Phone) -> None:
    with phone.session() as session:
        phone.mood("garbage")
        with pytest.raises(DeviceError, match="lost the device") as caught:
            session.run(["true"], timeout_s=5)
    assert str(caught.value).isprintable()


def test_a_lost_connection_is_an_error_and_nothing_stays(phone: Phone) -> None:
    with phone.session() as session:
        phone.mood("drop")
        with pytest.raises(DeviceError, match="lost the device while a command ran there: error: closed"):
            session.run(["sleep", "1000"], timeout_s=20)
        phone.mood("")
    assert gone(session.folder)


def test_an_error_of_ones_own_leaves_nothing_there(any_phone: Phone) -> None:
    used = []

    def measure() -> None:
        with any_phone.session() as session:
            used.append(session.folder)
            session.run(["sh", "-c", "sleep 60 >/dev/null 2>&1 &"], timeout_s=20)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        measure()
    assert gone(*used)


USER = """
import sys
from edgecompress.devices.adb import parse
from edgecompress.devices.base import DeviceOptions
with parse(sys.argv[1], DeviceOptions(remote_python=sys.executable)).session([]) as session:
    print(session.folder, flush=True)
    session.run(["sh", "-c", "sleep 1000 & sleep 1000"], timeout_s=600)
"""


@contextlib.contextmanager
def busy(phone: Phone) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process in the middle of a measurement, and its folder on the phone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    user = subprocess.Popen(
        [sys.executable, "-c", USER, phone.serial],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert user.stdout is not None
    with user:
        folder = user.stdout.readline().strip()
        try:
            for _ in range(100):
                if len(running(folder)) >= 2:
                    break
                time.sleep(0.1)
            yield user, folder
        finally:
            user.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.covering(1)
def test_a_measurement_that_is_interrupted_leaves_nothing_there(any_phone: Phone, how: signal.Signals) -> None:
    if how != signal.SIGINT and (any_phone.programs.parent / "phone" / "old").exists():
        pytest.skip("without the shell protocol the end of input does not reach the phone")
    with busy(any_phone) as (user, folder):
        user.send_signal(how)
        user.wait(20)
        assert gone(folder)


@pytest.mark.parametrize("killed", ["adb's server", "adbd", "the cable"])
def test_a_connection_that_dies_leaves_nothing_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: str
) -> None:
    with serving(tmp_path) as (phone, daemon):
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        with busy(phone) as (user, folder):
            if killed == "adbd":
                daemon.kill()
            else:
                ended = ["kill-server"] if killed == "adb's server" else ["disconnect", ADDRESS]
                subprocess.run(["adb", *ended], check=True, capture_output=True)
            assert user.wait(30) not in (0, None)
            assert gone(folder)


# -- a program of the user's measures ----------------------------------------------------------------------------------


def perf_test(folder: Path) -> Path:
    """Prints what onnxruntime_perf_test printed once, for the larger net with twice the times."""
    printed = (HERE.parent / "data" / "runners" / "onnxruntime_perf_test-1.22.txt").read_text()
    slow = re.sub(r"\d+\.\d+(?= s$| ms$)", lambda number: str(2 * float(number[0])), printed, flags=re.MULTILINE)
    program = folder / "onnxruntime_perf_test"
    cases = f"case \"$*\" in *lenet300*) cat <<'END'\n{printed}END\n;; *) cat <<'END'\n{slow}END\n;; esac\n"
    program.write_text("#!/bin/sh\n" + cases)
    return program


def test_a_session_without_an_interpreter_is_told_from_a_browser_and_from_a_counter(
    phone: Phone, tmp_path: Path
) -> None:
    with phone.device(DeviceOptions(runner=perf_test(tmp_path))).session(()) as session:
        with pytest.raises(DeviceError, match="no Python"):
            _ = session.python
        assert not is_page(session)
        assert not is_counting(session)


@pytest.mark.slow
def test_a_program_of_the_users_measures_two_files_in_turns(phone: Phone, tmp_path: Path) -> None:
    files = {}
    for name in ("lenet5", "lenet300"):
        sample = resolve(name)
        files[name] = export(sample.model(), replace(sample, splits=None), tmp_path, stem=name).path
    device = phone.device(DeviceOptions(runner=perf_test(tmp_path)))
    found = measure(files["lenet300"], files["lenet5"], device, Effort(seconds=0.1), threads=[])
    assert isinstance(found.comparison, Comparison)
    assert found.comparison.verdict == "faster"
    assert found.comparison.cpu is None
    assert found.comparison.wall.value == pytest.approx(2.0)
    assert len(found.comparison.candidate_latency.wall_ms) == 10
    assert isinstance(found.profile, Profile)
    assert found.profile.runtime["name"] == "onnxruntime"
    assert found.profile.latency.summary()["cpu"] is None
    assert found.profile.load_ms == pytest.approx(11.7931)
    assert found.profile.peak_rss_bytes == 35_299_328
    assert Profile.from_json(found.profile.to_json()) == found.profile
    (tmp_path / "model.tflite").touch()
    with pytest.raises(FileError, match=r"onnxruntime_perf_test runs \.onnx, \.ort files"):
        measure(tmp_path / "model.tflite", None, device, Effort(), threads=[])
    with pytest.raises(DeviceError, match="knows no --sustained"):
        measure(files["lenet5"], None, device, Effort(minutes=1), threads=[])
