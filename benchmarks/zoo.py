"""Architectures of others, each as a new user would give it: inspect, plan, compress, export to ONNX, verify.

    python benchmarks/zoo.py [--net BertModel ...] [--packages FOLDER] [--limit 300] [--keep 0.6]

Small nets of transformers and torchvision with random weights whose spectra decay, the weights alone, no training, one
thread. Neither package is a dependency; they may be in a folder of their own:

    pip install --target FOLDER --no-deps transformers tokenizers safetensors huggingface-hub regex requests tqdm \
pyyaml filelock packaging httpx httpcore h11 anyio sniffio certifi idna fsspec torchvision pillow

Each net runs in a process of its own with a limit of processor seconds, and is not run again where its row is there.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from children import measure_missing, peak_mb, read_rows, say
from rows import Row, put_in_readme
from zoo_nets import NETS, Net

RESULTS = Path(__file__).with_name("results") / "zoo.jsonl"
STAGES = ("inspect", "compress", "export", "verify")


def main() -> None:
    """Measure what is missing, one process each, and write the table."""
    options = parsed()
    if not options.table:
        sys.path.append(str(options.packages))
        loaded()
        wanted = [
            {"tag": options.tag, "net": net.name, "keep": options.keep} for net in NETS if net.name in options.net
        ]
        measure_missing(options.results, wanted, partial(in_fork, limit_s=options.limit))
    print(text := table(read_rows(options.results)))
    if options.results == RESULTS:
        put_in_readme("zoo", text)


def parsed() -> argparse.Namespace:
    """The command line."""
    names = [net.name for net in NETS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=names, default=names, metavar="NET")
    parser.add_argument("--packages", type=Path, default=Path("out/zoo/packages"), help="where the packages may be")
    parser.add_argument("--keep", type=float, default=0.6, help="of the MACs")
    parser.add_argument("--tag", default="this version", help="a name for the state of the code")
    parser.add_argument("--limit", type=int, default=300, help="processor seconds of one net")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of rows")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table; README.md for RESULTS")
    return parser.parse_args()


def loaded() -> None:
    """Import what all nets need, once; say what is missing, and how to get it."""
    torch.set_num_threads(1)
    missing = [name for name in ("transformers", "torchvision") if not _imported(name)]
    if missing:
        sys.exit(f"missing: {', '.join(missing)}\n{__doc__}")


def _imported(name: str) -> bool:
    """Whether a package can be imported; torchvision beside CPU torch may need its operators declared first."""
    try:
        import_module(name)
    except ImportError:
        return False
    except RuntimeError:
        for part in [part for part in sys.modules if part.startswith(name)]:
            del sys.modules[part]
        _declare_operators()
        import_module(name)
    return True


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declare_operators.kept = library  # type: ignore[attr-defined]


def in_fork(setting: Row, limit_s: int) -> Row:
    """The row of one net, from a fork of this process, which has the packages imported."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(writing, 1)
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s + 5))
        _in_child(setting)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8", errors="replace") as stream:
        lines = stream.read().splitlines()
    _, status = os.waitpid(child, 0)
    row = dict(setting)
    for line in lines:
        row.update(json.loads(line) if line.startswith('{"') else {})
    died = os.WIFSIGNALED(status)
    stopped = died and os.WTERMSIG(status) in {signal.SIGXCPU, signal.SIGKILL}
    return {**row, "not_done_s": limit_s} if stopped else {**row, "crashed": os.WTERMSIG(status)} if died else row


def _in_child(setting: Row) -> None:
    """Say the row, and end."""
    try:
        with TemporaryDirectory() as folder:
            treated(next(net for net in NETS if net.name == setting["net"]), setting["keep"], Path(folder))
    except BaseException:
        traceback.print_exc()
        say(error=traceback.format_exc(limit=-1).strip().splitlines()[-1][:300])
    finally:
        say(peak_mb=peak_mb())
        sys.stdout.flush()
        os._exit(0)


def treated(net: Net, keep: float, folder: Path) -> None:
    """All stages of one net; what it reached is said stage by stage, and why it was refused."""
    from edgecompress.errors import EdgeCompressError

    file = folder / f"{net.name}.py"
    file.write_text(net.text, encoding="utf-8")
    each: list[Callable[[Path], None]] = [_inspect, partial(_compress, keep=keep), _export, _verify]
    stages = dict(zip(STAGES, each, strict=True))
    for name, stage in stages.items():
        began = time.process_time()
        try:
            stage(file)
        except EdgeCompressError as error:
            say(refused=f"{name}: {str(error)[:400]}", **{f"{name}_s": round(time.process_time() - began, 1)})
            return
        say(reached=name, **{f"{name}_s": round(time.process_time() - began, 1)})


def _inspect(file: Path) -> None:
    from edgecompress.costs import cost
    from edgecompress.sources import resolve

    sample = resolve(str(file))
    whole = cost(sample.model(), sample.inputs)
    say(params=whole.params, macs=whole.macs)


def _compress(file: Path, keep: float) -> None:
    """Plan and decompose; where the budget is out of reach, at the smallest that is within."""
    import edgecompress as ec
    from edgecompress.errors import BudgetError
    from edgecompress.selectors import Budget

    def compress(share: float) -> None:
        tuning = ec.FineTuning(epochs=0)
        made = ec.compress(str(file), _out(file), selector=Budget(share), tuning=tuning, calibrate=0, force=True)
        say(kept=round(made.cost.compressed.macs / made.cost.dense.macs, 3))

    try:
        compress(keep)
    except BudgetError as error:
        if not error.nearest_keep < 1:
            raise
        say(out_of_reach=keep)
        compress(error.nearest_keep)


def _out(file: Path) -> Path:
    return file.with_name("out")


def _export(file: Path) -> None:
    import edgecompress as ec

    sample = ec.resolve(str(_out(file)), trust=True)
    made = ec.export(sample.model(), sample, _out(file))
    names = [[spec.name for spec in side] for side in (made.inputs, made.outputs)]
    say(names=names, notices=list(made.notices))


def _verify(file: Path) -> None:
    import edgecompress as ec

    sample = ec.resolve(str(_out(file)), trust=True)
    found = ec.verify(ec.Artifact.load(_out(file) / "model.onnx"), sample)
    say(max_abs_error=max(parity.max_abs_error / parity.scale for parity in found.parity))


def table(rows: list[Row]) -> str:
    """Markdown: a line for each net, and how many reached a verified file."""
    titles = ["net", "parameters", "MACs kept", "reached", "processor time", "memory", "why not"]
    lines = [titles, ["---"] * len(titles), *map(_line, rows)]
    done = sum(row.get("reached") == STAGES[-1] for row in rows)
    return (
        "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{done} of {len(rows)} reached a verified .onnx.\n"
    )


def _line(row: Row) -> list[str]:
    spent = sum(row.get(f"{stage}_s", 0) for stage in STAGES)
    why = row.get("refused") or row.get("error") or ("time limit" if "not_done_s" in row else "")
    why = why or (f"signal {row['crashed']}" if "crashed" in row else "")
    sizes = [f"{row['params'] / 1e6:.2f} M" if "params" in row else "-", str(row.get("kept", "-"))]
    last = [f"{spent:.0f} s", f"{row.get('peak_mb', 0) / 1000:.1f} GB", why.replace("|", "/")]
    return [row["net"], *sizes, row.get("reached", "nothing"), *last]


if __name__ == "__main__":
    main()
