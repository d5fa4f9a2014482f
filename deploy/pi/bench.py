"""Measure the model of this bundle on this machine, once run.py has found it whole and right; prints ONE JSON object.

    python bench.py [--threads N] [--seconds S]

One item at a time, in blocks of at least 20 ms, so that the clock's grain is no matter; the first fifth of them is
warm-up. Times are wall milliseconds of one inference. Needs what run.py needs.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

HERE = Path(os.path.realpath(__file__)).parent
BLOCK_S, FEWEST_BLOCKS = 0.02, 10


def runner():
    """run.py beside this file, and nothing else that lies here."""
    sys.dont_write_bytecode = True
    spec = importlib.util.spec_from_file_location("run", str(HERE / "run.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_item(run, manifest):
    """The first item of the golden inputs, or all of them where the model takes batches of one size."""
    feed = {}
    for tensor, spec in zip(manifest["golden"]["inputs"], manifest["inputs"]):
        free = spec["shape"] and isinstance(spec["shape"][0], str)
        feed[tensor["name"]] = run.read_tensor(tensor)[:1] if free else run.read_tensor(tensor)
    return feed


def block(session, names, feed, count):
    """Seconds of so many inferences in a row."""
    start = time.perf_counter()
    for _ in range(count):
        session.run(names, feed)
    return time.perf_counter() - start


def measure(session, feed, seconds):
    """Milliseconds of one inference in each block, warm-up left out, and how many fill a block."""
    names = [value.name for value in session.get_outputs()]
    count = 1
    while min(block(session, names, feed, count) for _ in range(3)) < BLOCK_S:  # one of them may have been disturbed
        count *= 2
    blocks, end = [], time.perf_counter() + seconds
    while len(blocks) < FEWEST_BLOCKS or time.perf_counter() < end:
        blocks.append(block(session, names, feed, count) / count * 1e3)
    return blocks[len(blocks) // 5 :], count


def main():
    """Check, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    run = runner()
    if options.threads < 0 or not 0 <= options.seconds <= 3600:
        run.fail("--threads is 0 (the runtime's choice) or more, --seconds 0 to 3600", 2)
    manifest = run.read_manifest(None)
    session = run.open_session(manifest, options.threads)
    checked = run.checked(manifest, session)
    times, count = measure(session, one_item(run, manifest), options.seconds)
    times.sort()
    shown = {
        "median_ms": statistics.median(times),
        "p90_ms": times[int(0.9 * (len(times) - 1))],
        "min_ms": times[0],
        "blocks": len(times),
        "runs_in_block": count,
    }
    where = {"machine": platform.machine(), "system": platform.platform(), "python": platform.python_version()}
    print(json.dumps({**checked, "threads": options.threads, "latency": shown, "where": where}))


if __name__ == "__main__":
    main()
