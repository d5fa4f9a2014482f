"""A real sshd on loopback: what is measured over it, what goes wrong, and that nothing is left there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest

from edgecompress.devices import Device, DeviceOptions, device_named
from edgecompress.devices import ssh as ssh_module
from edgecompress.devices.ssh import Ssh
from edgecompress.errors import DeviceError
from edgecompress.exporting import export
from edgecompress.profiling import compare, profile
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.facts import provenance
from edgecompress.profiling.profiles import Profile
from edgecompress.sources import resolve

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
pytestmark = [
    pytest.mark.skipif(
        SSHD is None or shutil.which("ssh") is None, reason="needs sshd: apt-get install openssh-server"
    ),
]


@dataclass(frozen=True)
class Board:
    """This machine behind its own sshd, with a temporary folder of its own."""

    port: int
    options: DeviceOptions
    temporary: Path
    daemon: subprocess.Popen[bytes]

    @property
    def name(self) -> str:
        return f"ssh:{os.environ.get('USER') or _user()}@127.0.0.1:{self.port}"

    def device(self, **changed: object) -> Ssh:
        fields = {name: getattr(self.options, name) for name in DeviceOptions.__dataclass_fields__}
        device = device_named(self.name, DeviceOptions(**fields | changed))
        assert isinstance(device, Ssh)
        return device

    def left(self) -> list[str]:
        return sorted(file.name for file in self.temporary.iterdir())

    def wait_until_empty(self) -> None:
        """Or tell what is left there, and what runs here."""
        with contextlib.suppress(AssertionError):
            return _wait_for(lambda: self.left() == [])
        asked = ["ls", "-lAR", "--full-time", str(self.temporary)], ["ps", "-eo", "pid,ppid,pgid,stat,lstart,args"]
        told = [subprocess.run(argv, capture_output=True, text=True, check=False).stdout for argv in asked]
        pytest.fail("\n".join(told), pytrace=False)


def _user() -> str:
    return subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    folder, port = tmp_path_factory.mktemp("ssh"), _free_port()
    temporary = tmp_path_factory.mktemp("there")
    (folder / "known").write_text(f"[127.0.0.1]:{port} {_key(folder / 'host')}\n")
    (folder / "accepted").write_text(_key(folder / "own") + "\n")
    settings = {
        "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "PidFile": "none",
        "AuthorizedKeysFile": folder / "accepted", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "prohibit-password", "SetEnv": f"TMPDIR={temporary}",
    }  # fmt: skip
    (folder / "conf").write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    assert SSHD is not None
    daemon = subprocess.Popen([SSHD, "-D", "-f", str(folder / "conf"), "-E", str(folder / "log")])
    try:
        _wait_for(lambda: _listens(port))
        options = DeviceOptions(sys.executable, folder / "own", folder / "known")
        yield Board(port, options, temporary, daemon)
    finally:
        daemon.terminate()
        daemon.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {
        name: export((sample := resolve(name)).model(), sample, folder, stem=name).path
        for name in ("lenet5", "lenet300")
    }


def open_and_close(device: Device, modules: tuple[str, ...] = ()) -> None:
    with device.session(modules):
        pass


def wait_there(device: Device, command: list[str], when_open: Callable[[], None]) -> None:
    with device.session(()) as there:
        when_open()
        there.run(command, timeout_s=60)


def python_that(tmp_path: Path, does: str) -> str:
    """An interpreter that passes the probe and then does something else."""
    script = tmp_path / "python3"
    script.write_text(f'#!/bin/sh\ncase "$1" in -c) exec {sys.executable} "$@";; esac\n{does}\n')
    script.chmod(0o755)
    return str(script)


@pytest.mark.usefixtures("brief_measuring")
def test_a_model_is_measured_there_and_nothing_is_left(
    board: Board, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.profiling.bench.COLD_STARTS", 2)
    found = profile(files["lenet5"], board.device(), runs=20, seconds=0.1)
    assert isinstance(found, Profile)
    assert (found.device.name, found.device.provenance) == (board.name, "measured")
    assert found.device.more["kernel"].startswith("Linux")
    assert found.cold is not None
    assert len(found.cold.load_ms) == 2
    board.wait_until_empty()


@pytest.mark.usefixtures("brief_measuring")
@pytest.mark.slow
def test_two_models_take_turns_there(board: Board, files: dict[str, Path]) -> None:
    found = compare(files["lenet300"], files["lenet5"], board.device(), seconds=0.2)
    assert isinstance(found, Comparison)
    assert found.verdict == "faster"
    assert found.verified_on_arm is found.device.is_arm


@pytest.mark.slow
def test_files_of_one_name_do_not_overwrite_each_other(board: Board, tmp_path: Path) -> None:
    texts = {"a": "first", "b": "second"}
    for folder, text in texts.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one and the same.txt").write_text(text)
    with board.device().session(()) as there:
        paths = [there.push(tmp_path / folder / "one and the same.txt") for folder in texts]
        assert [there.run(["cat", path], timeout_s=10) for path in paths] == list(texts.values())
        assert there.run(["printf", "%s", "a b; $HOME `id` 'c'"], timeout_s=10) == "a b; $HOME `id` 'c'"
    board.wait_until_empty()


def test_a_wrong_host_key_is_refused(board: Board, tmp_path: Path) -> None:
    wrong = tmp_path / "known"
    wrong.write_text(f"[127.0.0.1]:{board.port} {_key(tmp_path / 'other')}\n")
    with pytest.raises(DeviceError, match=r"Host key verification failed.*if you trust it") as caught:
        open_and_close(board.device(known_hosts=wrong))
    assert caught.value.exit_code == 4
    (tmp_path / "empty").touch()
    with pytest.raises(DeviceError, match="Host key verification failed"):
        open_and_close(board.device(known_hosts=tmp_path / "empty"))


def test_a_key_that_is_not_accepted_and_a_port_where_nothing_listens_are_named(board: Board, tmp_path: Path) -> None:
    _key(tmp_path / "stranger")
    with pytest.raises(DeviceError, match=r"Permission denied.*ssh-copy-id"):
        open_and_close(board.device(identity=tmp_path / "stranger"))
    closed = device_named(f"ssh:127.0.0.1:{_free_port()}", board.options)
    with pytest.raises(DeviceError, match=r"Connection refused.*is sshd running"):
        open_and_close(closed)


def test_a_command_that_fails_or_hangs_is_told_with_its_last_words(board: Board) -> None:
    with board.device().session(()) as there:
        with pytest.raises(DeviceError, match="sh ended with 3: last words") as caught:
            there.run(["sh", "-c", "echo last words >&2; exit 3"], timeout_s=10)
        assert caught.value.returncode == 3
        with pytest.raises(DeviceError, match="gave no answer within 1 s and was ended there; last: so far"):
            there.run(["sh", "-c", "echo so far; exec sleep 98765"], timeout_s=1)
        assert not _runs("sleep 98765")
        with pytest.raises(DeviceError, match=r"not found|No such file"):
            there.run(["/no/such/program"], timeout_s=10)


def _runs(command: str) -> bool:
    return subprocess.run(["pgrep", "-f", f"^{command}$"], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_a_runner_that_prints_garbage_is_told_what_it_said(
    board: Board, files: dict[str, Path], tmp_path: Path
) -> None:
    garbage = python_that(tmp_path, "echo 'Segmentation fault (core dumped)'")
    with pytest.raises(DeviceError, match="did not print one JSON object but 'Segmentation fault"):
        profile(files["lenet5"], board.device(remote_python=garbage))
    endless = python_that(tmp_path, "exec yes garbage")
    limit = pytest.MonkeyPatch()
    limit.setattr("edgecompress.devices.commands.MOST_BYTES", 1 << 20)
    with pytest.raises(DeviceError, match=r"wrote over 1 MiB; last: garbage"):
        profile(files["lenet5"], board.device(remote_python=endless))
    limit.undo()
    _wait_for(lambda: not _runs("yes garbage"))
    board.wait_until_empty()


def test_a_full_disk_there_is_told(board: Board, files: dict[str, Path]) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(board.temporary)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(DeviceError, match=r"cannot copy lenet5\.onnx there: .*No space left on device"):
            profile(files["lenet5"], board.device())
        board.wait_until_empty()
    finally:
        subprocess.run(["umount", str(board.temporary)], check=True)


def test_when_the_connection_is_killed_the_job_there_ends_and_its_folder_goes(board: Board) -> None:
    def cut() -> None:
        _wait_for(lambda: _runs("sleep 87654"))
        for process in _children(board.daemon.pid):
            os.kill(process, signal.SIGKILL)

    cutter = Thread(target=cut)
    with pytest.raises(DeviceError, match="lost the connection"):
        wait_there(board.device(), ["sleep", "87654"], cutter.start)
    cutter.join()
    _wait_for(lambda: not _runs("sleep 87654"))
    board.wait_until_empty()


def _children(process: int) -> list[int]:
    """The processes that serve connections; what they started belongs to init once they are gone."""
    listed = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in listed.stdout.split()]


def _script_that(board: Board, folder: Path, does: str) -> Path:
    """A program that does something in a session of its own."""
    script = folder / "session.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom edgecompress.devices import DeviceOptions, device_named\n"
        f"options = DeviceOptions(sys.executable, Path({str(board.options.identity)!r}), "
        f"Path({str(board.options.known_hosts)!r}))\n"
        f"with device_named({board.name!r}, options).session(()) as there:\n    {does}\n"
    )
    return script


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_when_this_process_is_interrupted_or_killed_nothing_is_left_there(
    board: Board, how: signal.Signals, tmp_path: Path
) -> None:
    script = _script_that(board, tmp_path, "there.run(['sleep', '76543'], timeout_s=60)")
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    _wait_for(lambda: _runs("sleep 76543"))
    process.send_signal(how)
    process.wait(20)
    _wait_for(lambda: not _runs("sleep 76543"))
    board.wait_until_empty()


def test_two_sessions_at_once_take_turns(board: Board) -> None:
    order: list[str] = []

    def second() -> None:
        with board.device().session(()):
            order.append("second")

    with board.device().session(()) as there:
        other = Thread(target=second)
        other.start()
        _wait_for(lambda: len(board.left()) == 2)
        there.run(["sleep", "0.3"], timeout_s=10)
        order.append("first")
    other.join()
    assert order == ["first", "second"]
    board.wait_until_empty()


@pytest.mark.slow
def test_who_is_interrupted_while_waiting_leaves_nothing(board: Board, tmp_path: Path) -> None:
    script = _script_that(board, tmp_path, "pass")
    with board.device().session(()):
        waiting = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
        _wait_for(lambda: len(board.left()) == 2)
        waiting.send_signal(signal.SIGINT)
        waiting.wait(20)
        _wait_for(lambda: len(board.left()) == 1)
    board.wait_until_empty()


def test_who_waits_too_long_is_told_why(board: Board) -> None:
    with board.device().session(()):
        device = board.device()
        hasty = Ssh(device.name, device.login, device.port, device.options, wait_s=1)
        with pytest.raises(DeviceError, match="another session has been measuring there for 1 s"):
            open_and_close(hasty)
    board.wait_until_empty()


def test_an_interpreter_without_the_runtime_is_refused_with_what_is_missing(board: Board) -> None:
    with pytest.raises(DeviceError, match=r"no Python there with numpy and no_such_runtime .*No module named"):
        open_and_close(board.device(), ("numpy", "no_such_runtime"))
    board.wait_until_empty()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ssh:", {}, "no device"),
        ("ssh:-oProxyCommand=id@host", {}, "not an address"),
        ("ssh:pi@-oProxyCommand=id", {}, "not an address"),
        ("ssh:pi@host:99999", {}, "not an address"),
        ("ssh:pi@host name", {}, "not an address"),
        ("ssh:pi@host", {"remote_python": "python3"}, "give its whole path"),
        ("ssh:pi@host", {"identity": Path("/no/such/key")}, "no such file"),
        ("ssh:pi@host", {"runner": Path("/bin/true")}, "--runner is of no use"),
        ("local", {"remote_python": "/usr/bin/python3"}, "--remote-python is of no use"),
    ],
)
def test_addresses_and_options_that_cannot_be_are_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        device_named(name, DeviceOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("address", "login", "port"),
    [
        ("pi@board.local", "pi@board.local", None),
        ("board", "board", None),
        ("pi@10.0.0.7:2222", "pi@10.0.0.7", 2222),
        ("pi@[fe80::1%eth0]:22", "pi@fe80::1%eth0", 22),
    ],
)
def test_addresses_are_read(address: str, login: str, port: int | None) -> None:
    device = ssh_module.parse(address, DeviceOptions())
    assert (device.login, device.port) == (login, port)


def test_a_program_for_another_processor_than_the_kernels_is_emulated() -> None:
    assert provenance("measured", "aarch64", "x86_64") == "emulated"
    assert provenance("measured", "aarch64", "aarch64") == "measured"
    assert provenance("measured", "armv7l", "aarch64") == "measured"
    assert provenance("measured", "x86_64", "amd64") == "measured"
    assert provenance("emulated", "aarch64", "aarch64") == "emulated"
