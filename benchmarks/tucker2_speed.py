"""Time our Tucker-2 against TensorLy's ``partial_tucker`` and write what came out to results/tucker2_speed.json.

    python benchmarks/tucker2_speed.py [THREADS ...]

A 512 x 512 x 3 x 3 float32 kernel at ranks (256, 256), once random and once with channel spectra that decay; no
trained weights of that width ship here. TensorLy runs with its defaults, on PyTorch and on NumPy, and on a float64
copy too. Repeats are interleaved in one process for each of THREADS (default 1). One thread needs 3 minutes; leave a
core idle for each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).with_name("results") / "tucker2_speed.json"
SHAPE, RANKS = (512, 512, 3, 3), (256, 256)
DECAY = {"random": 0.0, "decaying": 0.5}
"""The core's entry i, j, k is scaled by (i j) to the minus this; half ranks lose 6 to 42 % of ResNet-56."""
REPEATS, OURS_A_REPEAT = 3, 3
Run = Callable[[], Any]
"""Decompose once."""


def kernel(decay: float) -> Any:
    """A seeded kernel: normal numbers, scaled in random orthonormal bases of the two channel modes."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scales = torch.arange(1, SHAPE[0] + 1, dtype=torch.float64) ** -decay
    out, into = (torch.linalg.qr(normal(SHAPE[0], SHAPE[0]))[0] * scales for _ in range(2))
    half = torch.tensordot(out, normal(*SHAPE), dims=([1], [0]))
    return torch.tensordot(half, into, dims=([1], [1])).permute(0, 3, 1, 2).contiguous().float()


def ours(weight: Any) -> Run:
    """Ours, as shipped."""
    from edgecompress.decompositions.tucker2 import Tucker2

    return lambda: Tucker2().factors(weight, RANKS)


def theirs(weight: Any, backend: str, dtype: str) -> Run:
    """TensorLy's, with its defaults."""
    import tensorly
    from tensorly.decomposition import partial_tucker

    array = weight.numpy().astype(dtype)

    def run() -> Any:
        tensorly.set_backend(backend)
        tensor = tensorly.tensor(array)
        (core, factors), _ = partial_tucker(tensor, rank=list(RANKS), modes=[0, 1])
        return core, *factors

    return run


def relative_error(weight: Any, name: str, factors: Any) -> float:
    """Squared error over squared norm, of the kernel rebuilt in float64."""
    import numpy as np

    first, second, third = (np.asarray(factor, dtype=np.float64) for factor in factors)
    if name.startswith("ours"):
        first, second, third = second, third[:, :, 0, 0], first[:, :, 0, 0].T
    exact = weight.double().numpy()
    rebuilt = np.moveaxis(np.tensordot(np.tensordot(second, first, (1, 0)), third, (1, 1)), 3, 1)
    return float(((exact - rebuilt) ** 2).sum() / (exact**2).sum())


def measured(weight: Any) -> dict[str, Any]:
    """Seconds of every repeat, sweeps and error of each contestant."""
    rivals = [("pytorch", "float32"), ("numpy", "float32"), ("pytorch", "float64")]
    runs = {"ours": ours(weight)} | {f"tensorly {b} {d}": theirs(weight, b, d) for b, d in rivals}
    rows: dict[str, Any] = {}
    for name, run in runs.items():  # one run each to warm up, and for the error
        rows[name] = {"error": relative_error(weight, name, run()), "wall": [], "cpu": []}
    for _ in range(REPEATS):
        for name, run in runs.items():
            for _ in range(OURS_A_REPEAT if name == "ours" else 1):
                wall, cpu = time.perf_counter(), time.process_time()
                run()
                rows[name]["wall"].append(time.perf_counter() - wall)
                rows[name]["cpu"].append(time.process_time() - cpu)
    return {"contestants": rows, "comparison": compared(rows)}


def compared(rows: dict[str, Any]) -> dict[str, Any]:
    """Ours against the fastest of TensorLy's float32 runs: medians, and the worst and best pair of single runs."""
    fastest = min((n for n in rows if n.endswith("float32")), key=lambda name: median(rows[name]["wall"]))
    answer: dict[str, Any] = {"fastest_tensorly": fastest}
    answer["error_over_tensorly"] = rows["ours"]["error"] / rows[fastest]["error"]
    for clock in ("wall", "cpu"):
        mine, other = rows["ours"][clock], rows[fastest][clock]
        answer[f"{clock}_speedup"] = median(other) / median(mine)
        answer[f"{clock}_speedup_range"] = [min(other) / max(mine), max(other) / min(mine)]
    return answer


def versions() -> dict[str, str]:
    """Of what was timed."""
    import numpy as np
    import tensorly
    import torch

    import edgecompress

    modules = {"edgecompress": edgecompress, "tensorly": tensorly, "torch": torch, "numpy": np}
    return {"python": sys.version.split()[0], **{name: str(module.__version__) for name, module in modules.items()}}


def child(threads: int) -> None:
    """One process with that many threads: print its rows."""
    import torch

    torch.set_num_threads(threads)
    print(json.dumps({"versions": versions(), "kernels": {n: measured(kernel(d)) for n, d in DECAY.items()}}))


def main() -> None:
    """A process for each number of threads, then the results."""
    if "--child" in sys.argv:
        child(int(sys.argv[-1]))
        return
    document: dict[str, Any] = {
        "unit": "seconds; error: squared error over squared norm",
        "shape": SHAPE,
        "ranks": RANKS,
        "core_scale": {name: f"(i j)^-{decay}" for name, decay in DECAY.items()},
        "machine": {"cores": os.cpu_count()},
        "threads": {},
    }
    for threads in sys.argv[1:] or ["1"]:
        limits = {f"{library}_NUM_THREADS": threads for library in ("OMP", "MKL", "OPENBLAS")}
        command = [sys.executable, __file__, "--child", threads]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, **limits})
        rows = json.loads(answer.stdout)
        document["versions"] = rows["versions"]
        document["threads"][threads] = {"load_average_after": os.getloadavg()[1], "kernels": rows["kernels"]}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
