"""A browser in use for measuring: ``deploy/runners/web/measure.js`` with the runtime that bundles for browsers hold.

A browser's clock is coarse, so a figure is the mean of a block of at least 20 ms; CPU time is not known there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.artifacts import TensorSpec, golden_path, read_golden
from edgecompress.devices import Device, Local, PageSession
from edgecompress.errors import DeviceError, FileError
from edgecompress.files import Json, resource
from edgecompress.platforms.web import LIBRARIES, library_files, version_of
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.facts import DeviceFacts
from edgecompress.profiling.latencies import ColdStart, Latency
from edgecompress.profiling.measured_files import facts_of_file, facts_of_pair
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import paired_ratio
from edgecompress.profiling.stability import spread, unsettled
from edgecompress.settings import Effort
from edgecompress.targets import target_of

if TYPE_CHECKING:
    import numpy as np

ROLES = ("candidate", "baseline")
PAGE = "measure.html"
LOADS, COLD_STARTS, FEWEST_BLOCKS = 8, 3, 50
TIMEOUT_S = 900.0
MACHINE = "import json, sys; sys.path.insert(0, sys.argv[1]); import machine; print(json.dumps(machine.machine()))"


@dataclass(frozen=True, slots=True)
class WebBench:
    """A browser in which pages measure; ``folder`` is served to it, empty at first."""

    device: Device
    session: PageSession
    kernel: Json
    folder: Path

    def profile(self, path: Path, effort: Effort) -> Profile:
        """Measure one file: three cold starts, each a browser of its own, then latency.

        Raises:
            FileError: it cannot be read, or runs in no browser.
            DeviceError: the browser failed.
        """
        starts = [self._answer([path], "start", effort) for _ in range(COLD_STARTS)]
        answer = self._answer([path], "latency", effort)
        latency = Latency.from_json(answer["models"][0])
        return Profile(
            **facts_of_file(path, target_of(path)),
            **self._circumstances(answer, effort),
            cold=ColdStart(*(tuple(start[key] for start in starts) for key in ("load_ms", "first_run_ms"))),
            peak_rss_bytes=None,
            runtime_rss_bytes=None,
            latency=latency,
            unstable=_unstable(answer, [latency]),
        )

    def compare(self, candidate: Path, baseline: Path, effort: Effort) -> Comparison:
        """Two files, which the caller knows to compare, in interleaved blocks of one page.

        Raises:
            DeviceError: the browser failed.
        """
        answer = self._answer([candidate, baseline], "latency", effort)
        ours, theirs = map(Latency.from_json, answer["models"])
        return Comparison(
            **facts_of_pair(candidate, baseline),
            **self._circumstances(answer, effort),
            wall=paired_ratio(theirs.wall_ms, ours.wall_ms, ours.loads),
            cpu=None,
            baseline_latency=theirs,
            candidate_latency=ours,
            unstable=_unstable(answer, [ours, theirs]),
        )

    def _answer(self, paths: Sequence[Path], kind: str, effort: Effort) -> Json:
        """What the page reports of one pass."""
        if effort.minutes or effort.length or effort.past is not None or effort.threads != 1:
            raise DeviceError.of(
                self.device.name,
                "a page is measured with one thread and without --sustained, --length or --past; drop these",
            )
        target = target_of(paths[0]).name
        if target not in LIBRARIES:
            raise FileError(f"{paths[0]}: {target} runs in no browser; {' and '.join(LIBRARIES)} do")
        if not (self.folder / PAGE).exists():
            library_files(target, self.folder)
            for file in ("measure.js", PAGE):
                (self.folder / file).write_bytes((resource("deploy") / "runners" / "web" / file).read_bytes())
        models = [_placed(path, role, self.folder, effort) for path, role in zip(paths, ROLES, strict=False)]
        job: Json = {"pass": kind, "target": target, "runtime": {"tested": version_of(target)}, "models": models}
        job |= {"loads": LOADS, "seconds": effort.seconds, "blocks": max(FEWEST_BLOCKS, effort.runs)}
        job["files"] = [f"runtime/{file.name}" for file in sorted((self.folder / "runtime").iterdir())]
        job["files"] += [one["path"] for model in models for one in model["inputs"]]
        job["files"] += [model["model_file"] for model in models]
        (self.folder / "job.json").write_text(json.dumps(job))
        timeout_s = TIMEOUT_S + 4 * effort.seconds * len(paths)
        return self._checked(self.session.opened(self.folder / PAGE, timeout_s=timeout_s), kind)

    def _checked(self, answer: Json, kind: str) -> Json:
        wanted = {"start": ("load_ms", "first_run_ms"), "latency": ("models", "block_ms")}[kind]
        if not all(key in answer for key in ("runtime", "where", *wanted)):
            raise DeviceError.of(self.device.name, f"the page reports no {', '.join(wanted)}", command="measure.js")
        return answer

    def _circumstances(self, answer: Json, effort: Effort) -> Json:
        argv = [sys.executable, "-c", MACHINE, str(resource("deploy") / "runners")]
        with Local().session(()) as here:
            known = json.loads(here.run(argv, timeout_s=60))
        blocks = [model["runs_in_block"] for model in answer["models"]]
        more = known["more"] | answer["where"] | {"browser": self.kernel["browser"], "block_ms": answer["block_ms"]}
        more.pop("numpy", None)
        more |= {"figures": "means of blocks", "runs_in_block": blocks}
        facts = DeviceFacts(self.device.name, self.device.provenance, **{**known, "python": "none", "more": more})
        runtime = answer["runtime"] | {"version": f"{answer['runtime']['version']}, {self.kernel['browser']}"}
        return {"device": facts, "runtime": runtime, "threads": 1, "batch": effort.batch}


def _placed(path: Path, role: str, folder: Path, effort: Effort) -> Json:
    """A model and its inputs in the page's folder, as the page's ``start()`` takes them."""
    target = target_of(path)
    inputs, outputs = target.signature(path)
    own = folder / role
    own.mkdir(exist_ok=True)
    model_file = f"{role}/model{target.suffix}"
    (folder / model_file).write_bytes(path.read_bytes())
    feed = _feed(path, inputs, effort.batch)
    specs = []
    for number, (name, array) in enumerate(feed.items()):
        file = f"{role}/input_{number}.bin"
        (folder / file).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())
        specs.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "path": file})
    return {"role": role, "model_file": model_file, "inputs": specs, "outputs": [{"name": one.name} for one in outputs]}


def _feed(path: Path, inputs: Sequence[TensorSpec], batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """Golden inputs where they are, else seeded normal numbers, of a batch."""
    import numpy as np

    golden = read_golden(golden_path(path))[0] if golden_path(path).is_file() else {}
    generator = np.random.default_rng(0)
    feed = {}
    for spec in inputs:
        shape = [batch if axis == 0 and isinstance(size, str) else size for axis, size in enumerate(spec.shape)]
        if any(isinstance(size, str) for size in shape) or (shape and shape[0] != batch):
            raise FileError(f"{path}: input {spec.name} of shape {list(spec.shape)} takes no batch of {batch}")
        sizes = [int(size) for size in shape]
        values = np.resize(golden[spec.name], sizes) if spec.name in golden else generator.standard_normal(sizes)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


def _unstable(answer: Json, latencies: Sequence[Latency]) -> tuple[str, ...]:
    """Why times cannot be trusted; empty if they can."""
    return (*unsettled(answer["models"]), *spread([latency.all_wall_ms() for latency in latencies]))
