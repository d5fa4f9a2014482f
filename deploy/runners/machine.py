"""Facts about the machine: what it is, what may change while measuring, and what this process takes of it.

Stand-alone, as ``bench.py`` beside it: Python 3.8 and numpy.
"""

import os
import platform
import re
import sys

import numpy as np


def peak_rss_bytes():
    """Most memory this process ever took: VmHWM where there is /proc (ru_maxrss there includes the parent's)."""
    try:
        with open("/proc/self/status") as stream:
            return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def read(path):
    """A small file of the system, or nothing."""
    try:
        with open(path) as stream:
            return stream.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def cpus():
    """The processors this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpufreq(name):
    """The kernel's value of each processor's clock under ``name``, where it has one."""
    texts = (read("/sys/devices/system/cpu/cpu%d/cpufreq/%s" % (cpu, name)) for cpu in cpus())
    return [text for text in texts if text]


def clock_mhz():
    """The slowest processor's clock now; None if the kernel does not report it."""
    found = [int(text) / 1e3 for text in cpufreq("scaling_cur_freq") if text.isdigit()]
    return min(found) if found else None


def temperature_c():
    """The hottest thermal zone now; None if there is none."""
    import glob

    texts = (read(path) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp"))
    found = [int(text) / 1e3 for text in texts if text.lstrip("-").isdigit()]
    return max(found) if found else None


def power():
    """Each battery's or mains supply's state."""
    import glob

    found = {}
    for folder in sorted(glob.glob("/sys/class/power_supply/*")):
        state = read(folder + "/status") or {"1": "online", "0": "offline"}.get(read(folder + "/online"), "")
        found[os.path.basename(folder)] = state
    return found


def conditions():
    """What may change while measuring."""
    memory = [line.split()[1] for line in read("/proc/meminfo").splitlines() if line.startswith("MemAvailable:")]
    return {
        "clock_mhz": clock_mhz(),
        "temperature_c": temperature_c(),
        "throttled": read("/sys/devices/platform/soc/soc:firmware/get_throttled") or None,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_available_bytes": int(memory[0]) * 1024 if memory else None,
        "power": power(),
    }


def machine():
    """What the numbers were measured on."""
    lines = read("/proc/cpuinfo").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(("model name", "hardware"))]
    board = read("/proc/device-tree/model").strip("\0")
    memory = [line.split()[1] for line in read("/proc/meminfo").splitlines() if line.startswith("MemTotal:")]
    fastest = [int(text) / 1e3 for text in cpufreq("cpuinfo_max_freq") if text.isdigit()]
    return {
        "machine": platform.machine(),
        "processor": (names[0] if names else "") or board or platform.processor(),
        "cores": os.cpu_count(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "python": platform.python_version(),
        "more": {
            "board": board or None,
            "virtual": is_virtual(),
            "governors": sorted(set(cpufreq("scaling_governor"))),
            "highest_clock_mhz": max(fastest) if fastest else None,
            "memory_bytes": int(memory[0]) * 1024 if memory else None,
            "cpus_allowed": cpus(),
            "numpy": np.__version__,
        },
    }


FIRMWARE = ["/sys/class/dmi/id/" + name for name in ("sys_vendor", "product_name", "board_vendor", "bios_vendor")]
FIRMWARE += ["/proc/device-tree/model", "/proc/device-tree/compatible"]
HYPERVISOR = ["/sys/hypervisor/type", "/proc/device-tree/hypervisor/compatible"]
GUEST = re.compile(
    r"(?<![a-z])(qemu|kvm|vmware|virtualbox|innotek|xen|bochs|parallels|bhyve|hyper-v|virtual machine|"
    r"apple virtualization|google compute engine|amazon ec2|openstack|kubevirt|alibaba cloud ecs|digitalocean|"
    r"crosvm|cloud hypervisor|firecracker|dummy-virt|user mode linux|microsoft-standard-wsl2)(?![a-z])",
    re.IGNORECASE,
)
"""What virtual machines report as their maker, product, board or processor."""


def is_virtual():
    """Whether this is a virtual machine, by its processor, firmware or board; None where nothing shows it.

    A container is none: it has the firmware of the machine that it runs on.
    """
    if sys.platform == "darwin":
        return {"1": True, "0": False}.get(sysctl("kern.hv_vmm_present"))
    cpuinfo, firmware = read("/proc/cpuinfo"), " ".join(filter(None, map(read, FIRMWARE)))
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags and "hypervisor" in flags.group(1).split():
        return True
    rented_whole = ".metal" in firmware
    if any(map(read, HYPERVISOR)) or GUEST.search(cpuinfo + " " + platform.release()):
        return True
    if GUEST.search(firmware):
        return not rented_whole
    return False if flags or firmware else None


def sysctl(name):
    """A value of a BSD kernel, or nothing."""
    import subprocess

    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], check=False, stdout=subprocess.PIPE, timeout=10)
        return done.stdout.decode(errors="replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def preempted():
    """How often this process was made to wait for another, so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
