"""What the bench script finds of the machine, virtual or not or not known, and what it takes off a profile."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.targets.runtimes import bench_script

X86 = "processor\t: 0\nmodel name\t: Example CPU\nflags\t\t: fpu sse2 avx2{more}\nbugs\t\t: hypervisor\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd crc32\nCPU implementer\t: 0x41\n"
DMI, TREE = "/sys/class/dmi/id/", "/proc/device-tree/"


def script(name: str) -> ModuleType:
    """One of the scripts as a module."""
    spec = importlib.util.spec_from_file_location(f"stand_alone_{name}", bench_script().with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """The bench script, which imports those beside it."""
    before = list(sys.path)
    try:
        return script("bench")
    finally:
        sys.path[:] = before


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """What the bench script makes of a machine whose files hold this, and nothing else."""
    machine = script("machine")

    def virtual(files: dict[str, str], *, platform: str = "linux", release: str = "6.8.0", sysctl: str = "") -> object:
        monkeypatch.setattr(machine, "read", lambda path: files.get(path, ""))
        monkeypatch.setattr(machine.sys, "platform", platform)
        monkeypatch.setattr(machine.platform, "release", lambda: release)
        monkeypatch.setattr(machine, "sysctl", lambda _: sysctl)
        return machine.is_virtual()

    return virtual


@pytest.mark.parametrize(
    "files",
    [
        {"/proc/cpuinfo": X86.format(more=" hypervisor lahf_lm")},
        {"/proc/cpuinfo": X86.format(more=""), DMI + "sys_vendor": "QEMU"},
        {"/proc/cpuinfo": X86.format(more=""), DMI + "product_name": "VMware20,1"},
        {"/proc/cpuinfo": X86.format(more=""), DMI + "bios_vendor": "innotek GmbH"},
        {"/proc/cpuinfo": X86.format(more=""), "/sys/hypervisor/type": "xen"},
        {DMI + "sys_vendor": "Microsoft Corporation", DMI + "product_name": "Virtual Machine"},
        {"/proc/cpuinfo": ARM, DMI + "sys_vendor": "Amazon EC2", DMI + "product_name": "c7g.large"},
        {"/proc/cpuinfo": ARM, DMI + "product_name": "Google Compute Engine"},
        {"/proc/cpuinfo": ARM, DMI + "product_name": "Apple Virtualization Generic Platform"},
        {"/proc/cpuinfo": ARM, TREE + "compatible": "linux,dummy-virt\0"},
        {"/proc/cpuinfo": ARM, TREE + "hypervisor/compatible": "xen,xen-4.17\0xen,xen\0"},
        {"/proc/cpuinfo": "processor : 0\nmachine : CHRP IBM pSeries (emulated by qemu)\n"},
    ],
)
def test_a_virtual_machine_is_told_by_processor_firmware_or_board(
    told: Callable[..., object], files: dict[str, str]
) -> None:
    assert told(files) is True


@pytest.mark.parametrize(
    "files",
    [
        {"/proc/cpuinfo": X86.format(more="")},
        {"/proc/cpuinfo": X86.format(more=""), DMI + "sys_vendor": "Dell Inc.", DMI + "product_name": "Xenon 5"},
        {"/proc/cpuinfo": ARM, TREE + "model": "Raspberry Pi 4 Model B Rev 1.5\0"},
        {"/proc/cpuinfo": ARM, DMI + "sys_vendor": "Amazon EC2", DMI + "product_name": "c7g.metal"},
        {DMI + "sys_vendor": "Ampere Computing"},
    ],
)
def test_what_is_no_virtual_machine_says_so(told: Callable[..., object], files: dict[str, str]) -> None:
    assert told(files) is False


def test_where_nothing_tells_it_is_not_known(told: Callable[..., object]) -> None:
    assert told({}) is None
    assert told({"/proc/cpuinfo": ARM}) is None
    assert told({}, platform="win32") is None
    assert told({}, platform="darwin") is None


def test_other_systems_are_asked_their_own_way(told: Callable[..., object]) -> None:
    assert told({"/proc/cpuinfo": ARM}, release="5.15.153.1-microsoft-standard-WSL2") is True
    assert told({}, platform="darwin", sysctl="1") is True
    assert told({}, platform="darwin", sysctl="0") is False


@given(st.lists(st.floats(0, 10), min_size=1, max_size=20), st.floats(0, 5), st.floats(0, 3))
def test_what_a_profiler_adds_to_each_operator_is_found(
    bench: ModuleType, times: list[float], added: float, outside: float
) -> None:
    """Whatever an operator takes, and also where one takes less than looking at it."""
    found = bench.without_overhead([time + added for time in times], sum(times))
    assert found == pytest.approx(times, abs=1e-6)
    cut = bench.without_overhead(times, max(0.0, sum(times) - outside))
    assert sum(cut) == pytest.approx(max(0.0, sum(times) - outside), abs=1e-6)
    assert all(0 <= after <= before for before, after in zip(times, cut, strict=True))
    assert bench.without_overhead(times, sum(times) + outside) == pytest.approx(times)


def test_what_a_profiler_adds_is_found_also_where_operators_take_seconds(bench: ModuleType) -> None:
    """There the last digit of a sum is more than any fixed tolerance."""
    for seed in range(600):
        generator = random.Random(seed)
        times = [10_000 * generator.random() ** 3 for _ in range(60)]
        total = sum(times) * generator.uniform(0.5, 0.99)
        assert sum(bench.without_overhead(times, total)) == pytest.approx(total)
