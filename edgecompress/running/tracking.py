"""A finished run for the places where teams keep theirs: TensorBoard, MLflow. What these need is an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError, MissingExtra
from edgecompress.profiling.comparisons import TimedPair
from edgecompress.reporting import HTML_NAME, Report

Tracker = Callable[[Report, Path], None]
"""Is given a run's report and its folder."""
EXTRA = "pip install 'edgecompress[tracking]'"


def tracker_of(text: str) -> Tracker:
    """What ``tensorboard:FOLDER`` or ``mlflow[:ADDRESS]`` names; its library is proved to be there.

    Raises:
        FileError: there is no such kind, or a folder is missing.
        MissingExtra: its library is not installed.
    """
    kind, _, place = text.partition(":")
    if kind not in KINDS:
        raise FileError(f"--log {text}: no such place; there are tensorboard:FOLDER and mlflow[:ADDRESS]")
    return KINDS[kind](place)


def figures_logged(report: Report) -> dict[str, float]:
    """Numbers by name, with units where they have one."""
    return dict(_figures(report))


def _figures(report: Report) -> Iterator[tuple[str, float]]:
    for role, cost in report.cost.items():
        yield f"{role}/macs", cost.macs
        yield f"{role}/params", cost.params
    for (role, file), score in zip(report.files.items(), report.before_and_after, strict=True):
        if file is not None:
            yield f"{role}/size_bytes", file.size_bytes
        if score is not None:
            yield f"{role}/{report.metric.name}", score
    pair = report.comparison
    if isinstance(pair, TimedPair):
        yield "dense/wall_p50_ms", pair.baseline_latency.statistics.wall.p50
        yield "compressed/wall_p50_ms", pair.candidate_latency.statistics.wall.p50
        yield "speedup", pair.wall.value


def _tensorboard(place: str) -> Tracker:
    if not place:
        raise FileError("--log tensorboard: name the folder, as tensorboard:runs/mine")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtra(f"--log tensorboard: TensorBoard is not installed; {EXTRA}") from None

    def log(report: Report, _folder: Path) -> None:
        writer: Any = SummaryWriter(place)
        for name, value in figures_logged(report).items():
            writer.add_scalar(name, value)
        for epoch in report.training.history if report.training else ():
            writer.add_scalar("training/loss", epoch.loss, epoch.epoch)
            writer.add_scalar("training/validation", epoch.score, epoch.epoch)
        options = "".join(f"| {name} | {value} |\n" for name, value in report.arguments.items())
        writer.add_text("options", f"| option | value |\n|---|---|\n{options}")
        writer.close()

    return log


def _mlflow(place: str) -> Tracker:
    try:
        import mlflow
    except ImportError:
        raise MissingExtra(f"--log mlflow: MLflow is not installed; {EXTRA}") from None
    client: Any = mlflow

    def log(report: Report, folder: Path) -> None:
        if place:
            client.set_tracking_uri(place)
        with client.start_run(run_name=report.model):
            client.log_params({name: str(value)[:500] for name, value in report.arguments.items()})
            client.log_metrics(figures_logged(report))
            for epoch in report.training.history if report.training else ():
                client.log_metrics({"training/loss": epoch.loss, "training/validation": epoch.score}, step=epoch.epoch)
            client.log_artifact(str(folder / HTML_NAME))

    return log


KINDS: dict[str, Callable[[str], Tracker]] = {"tensorboard": _tensorboard, "mlflow": _mlflow}
