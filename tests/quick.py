"""What makes tests quicker and changes nothing that they look at: of PyTorch's exporter, of measuring, of Python."""

from __future__ import annotations

import functools
import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.warm_bench import address, run_bench

if TYPE_CHECKING:
    from edgecompress.devices.commands import Finished


def patch_exporter(patch: pytest.MonkeyPatch) -> None:
    """PyTorch's exporter without what it works out anew for every file: half of a small model's export.

    From the first export on: its modules take a second to import, and many tests export nothing. What it writes is the
    same byte for byte.
    """
    import torch

    export = torch.onnx.export

    def exported(*arguments: Any, **options: Any) -> Any:
        patch.setattr(torch.onnx, "export", export)
        _keep_tables(patch)
        return export(*arguments, **options)

    patch.setattr(torch.onnx, "export", exported)


def _keep_tables(patch: pytest.MonkeyPatch) -> None:
    """The 500 translations to ONNX, and the list of operators that may be kept whole."""
    from torch._ops import OperatorBase
    from torch.export import decomp_utils, exported_program
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
    operators = functools.cache(exported_program._collect_all_valid_cia_ops)
    for module in (exported_program, decomp_utils):
        patch.setattr(module, "_collect_all_valid_cia_ops", operators)
    patch.setattr(OperatorBase, "py_impl", _quickly(OperatorBase.py_impl))


def _quickly(py_impl: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """``py_impl`` for plain dispatch keys, without the annotations that it evaluates for each of 10,000 kernels."""
    from torch._C import DispatchKey

    def implemented(self: Any, key: Any) -> Any:
        if type(key) is not DispatchKey or key == DispatchKey.Python or key in self.py_kernels:
            return py_impl(self, key)

        def registered(function: Any) -> Any:
            self.py_kernels[key] = function
            self._dispatch_cache.clear()
            return function

        return registered

    return implemented


def measure_briefly(patch: pytest.MonkeyPatch) -> None:
    """For tests of what is made of times, not of how sure they are: fewer loads of each file and one cold start.

    On this machine, moreover, passes are forks, which need not import the runtime, and their blocks are shorter.
    """
    from edgecompress.devices import local
    from edgecompress.profiling import bench

    address()
    arguments, fewer = bench.arguments, ["--loads", "3", "--warmup-seconds", "0.2"]
    patch.setattr(bench, "COLD_STARTS", 1)
    patch.setattr(bench, "arguments", lambda effort, kind: [*arguments(effort, kind), *fewer])
    patch.setattr(local, "run_command", _in_forks(local.run_command))


def _in_forks(run_command: Callable[..., Finished]) -> Callable[..., Finished]:
    """``run_command`` with the bench script in a fork; all other programs as they are."""
    from edgecompress.devices.commands import Finished
    from edgecompress.targets.runtimes import bench_script

    def run(device: str, argv: Sequence[str], *, timeout_s: float, **more: Any) -> Finished:
        if list(argv[:2]) != [sys.executable, str(bench_script().resolve())]:
            return run_command(device, argv, timeout_s=timeout_s, **more)
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            code = run_bench(list(argv[1:]), out, err, timeout_s)
            problem = err.read_text()
            assert code is not None, f"took more than {timeout_s} s: {argv}"
            assert not problem.startswith("Timeout"), problem
            return Finished(out.read_text(), problem, code)

    return run


def seed_the_cpu_alone() -> None:
    """PyTorch keeps where each seed was given for processors that are not there: 2 ms a test, and a layer of a law."""
    import torch

    if not torch.cuda.is_available():
        torch.random._manual_seed_impl = lambda seed: torch.default_generator.manual_seed(int(seed))


def collect_garbage_rarely() -> None:
    """Imports leave a million objects, and tracing makes many: looking through them is a tenth of an export."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
