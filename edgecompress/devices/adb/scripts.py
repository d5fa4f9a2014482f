"""Scripts of a device's shell: the keeper of a session's folder, a command with its watchdog, and facts.

NAME, FOLDER, SECONDS and COMMAND stand for what :func:`filled` puts in, quoted where the shell would split it.
"""

from __future__ import annotations

import re

from edgecompress.files import Json

SWEEP = r"""
for pass in 1 2 3 4 5 6 7 8 9; do
  running=$(grep -l -F EDGECOMPRESS_SESSION=NAME /proc/[0-9]*/environ 2>/dev/null)
  [ "$running" ] || break
  for file in $running; do process=${file#/proc/}; kill -9 "${process%/environ}" 2>/dev/null; done
  sleep 0.1 2>/dev/null || sleep 1
done
"""
"""Kill all processes of the session NAME by their environment, and those they start meanwhile."""

KEEPER = (
    r"""
umask 077
for base in /data/local/tmp "${TMPDIR:-/tmp}" /tmp; do
  folder=$base/NAME
  mkdir "$folder" 2>/dev/null && break
  folder=
done
[ "$folder" ] || { echo "neither /data/local/tmp nor /tmp can be written to" >&2; exit 1; }
trap '' HUP INT TERM PIPE
echo "folder $folder"
read -r line
"""
    + SWEEP
    + r"""
rm -rf "$folder"
"""
)

JOB = (
    r"""
cd FOLDER && umask 077 && {
nap=$( (
  env EDGECOMPRESS_SESSION=NAME sleep SECONDS >/dev/null & echo $!
  exec >/dev/null
  wait $! && {
"""
    + SWEEP
    + r"""
  }
) 2>/dev/null </dev/null & )
env EDGECOMPRESS_SESSION=NAME TMPDIR=FOLDER PYTHONDONTWRITEBYTECODE=1 COMMAND </dev/null
ended=$?
kill "$nap" 2>/dev/null
(exit $ended)
}
"""
)
"""Run COMMAND with a watchdog, which sweeps if it can sleep for SECONDS without being killed.

Not under ``timeout``: that of toybox, which Android has, ends with 127 now and then when a command ends at once.
"""

PROPERTIES = {
    "model": "ro.product.model",
    "android": "ro.build.version.release",
    "abi": "ro.product.cpu.abi",
    "chip": "ro.soc.model",
    "board": "ro.board.platform",
}
CPU = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
FACTS = f"""
echo machine=$(uname -m)
echo system=$(uname -sr)
echo cores=$(nproc || grep -c ^processor /proc/cpuinfo)
echo processor=$(grep -i -m 1 -e '^hardware' -e '^model name' /proc/cpuinfo | cut -d: -f2)
echo governors=$(cat {CPU}/scaling_governor | sort -u)
echo clocks=$(cat {CPU}/scaling_cur_freq)
echo highest=$(cat {CPU}/cpuinfo_max_freq)
echo temperatures=$(cat /sys/class/thermal/thermal_zone*/temp)
echo memory=$(grep ^MemTotal: /proc/meminfo)
echo battery=$(dumpsys battery | grep -e powered: -e level: -e temperature:)
echo virtual=$(getprop ro.kernel.qemu)$(getprop ro.boot.qemu)
""" + "".join(f"echo {key}=$(getprop {name})\n" for key, name in PROPERTIES.items())


def filled(script: str, **values: str) -> str:
    """A script with values for its words in capitals."""
    return re.sub("|".join(values), lambda match: values[match[0]], script)


def facts_of(text: str) -> Json:
    """What ``FACTS`` printed, as values: clocks in MHz, temperatures in degrees C, memory in bytes.

    What the device does not report is left out.
    """
    lines = {key: value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    return {key: value for key, value in _values(lines).items() if value not in (None, "", [], {})}


def _values(lines: dict[str, str]) -> Json:
    """The lines of ``FACTS`` by key as values; None or empty where the device does not report them."""
    clocks, highest, temperatures, memory = (
        [int(number) for number in re.findall(r"-?\d+", lines.get(key, ""))]
        for key in ("clocks", "highest", "temperatures", "memory")
    )
    return {
        **{key: lines.get(key) for key in ("machine", "system", "processor", *PROPERTIES)},
        "cores": int(lines["cores"]) if lines.get("cores", "").isdigit() else None,
        "governors": lines.get("governors", "").split(),
        "clock_mhz": min(clocks) / 1e3 if clocks else None,
        "highest_clock_mhz": max(highest) / 1e3 if highest else None,
        "temperature_c": max(temperatures) / 1e3 if temperatures else None,
        "memory_bytes": memory[0] * 1024 if memory else None,
        "battery": _battery(lines.get("battery", "")),
        "virtual": "1" in lines.get("virtual", "") or None,
    }


def _battery(text: str) -> Json:
    """Level in percent, temperature in degrees C, what it is fed from, as ``dumpsys battery`` prints them."""
    level, warm = (re.search(rf"\b{key}: (-?\d+)", text) for key in ("level", "temperature"))
    known = {
        "level": int(level[1]) if level else None,
        "temperature_c": int(warm[1]) / 10 if warm else None,
        "power": re.findall(r"(\w+) powered: true", text),
    }
    return {key: value for key, value in known.items() if value is not None} if level else {}
