"""An ``adb`` whose phone is a folder: copied as ``adb`` into a folder of programs, beside a folder ``phone``.

``phone/mood`` says what goes wrong: a state that ``adb devices`` tells, or ``old`` (no shell protocol: no exit codes,
both outputs mixed, lines end as on a terminal), ``full``, ``damage``, ``hang``, ``garbage``, ``drop``. A folder
``phone/bin`` is all the phone has for programs, its ``sh`` among them.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

SERIAL = "R58N000XYZ"
PHONE = Path(sys.argv[0]).resolve().parent.parent / "phone"
MOODS = {"old", "full", "damage", "hang", "garbage", "drop", ""}
mood = (PHONE / "mood").read_text()


def say(text, stream=sys.stdout):
    """One line."""
    stream.write(text + "\n")
    stream.flush()


def devices():
    """What ``adb devices`` prints."""
    say("List of devices attached")
    if mood != "absent":
        say(f"{SERIAL}\t{'device' if mood in MOODS else mood}")
    say("emulator-5554\toffline\n")


def push(source, target):
    """Copy a file or a folder with its contents."""
    if mood == "full":
        say(
            f"adb: error: failed to copy '{source}' to '{target}': remote write failed: No space left on device",
            sys.stderr,
        )
        return 1
    (shutil.copytree if Path(source).is_dir() else shutil.copy)(source, target)
    if mood == "damage":
        with Path(target).open("r+b") as stream:
            stream.write(b"?")
    say(f"{source}: 1 file pushed, 0 skipped.")
    return 0


def shell(script):
    """Run a script as the phone's shell does: it outlives this process, and then its standard input ends."""
    if mood == "hang":
        time.sleep(3600)
    if mood == "garbage":
        os.write(1, bytes(range(256)) * 40)
        return 0
    old, programs = (PHONE / "old").exists(), PHONE / "bin"
    own = {"PATH": str(programs)} if programs.exists() else {}
    child = subprocess.Popen(
        [programs / "sh" if own else "/bin/sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE if old else None,
        stderr=subprocess.STDOUT if old else None,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(PHONE), **own},
        cwd="/",
    )
    threading.Thread(target=feed, args=(child.stdin, old), daemon=True).start()
    if mood == "drop":
        time.sleep(0.5)
        child.send_signal(signal.SIGHUP)
        say("error: closed", sys.stderr)
        return 1
    if old:
        for line in child.stdout:
            os.write(1, line.replace(b"\n", b"\r\n"))
    code = child.wait()
    return 0 if old else code if code >= 0 else 128 - code


def feed(stdin, old):
    """Pass standard input on; without the shell protocol its end is never told."""
    while given := os.read(0, 4096):
        stdin.write(given)
        stdin.flush()
    if not old:
        stdin.close()


if sys.argv[1:] == ["devices"]:
    sys.exit(devices())
option, serial, command, *rest = sys.argv[1:]
assert (option, serial) == ("-s", SERIAL), sys.argv
if command == "features":
    sys.exit(say("cmd" if (PHONE / "old").exists() else "shell_v2\ncmd"))
os._exit({"push": push, "shell": shell}[command](*rest))
