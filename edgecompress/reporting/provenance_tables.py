"""The report's tables on files, device, conditions, data, and scores by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from edgecompress.profiling.comparisons import TimedPair
from edgecompress.profiling.instruction_counts import AnyComparison, InstructionComparison
from edgecompress.reporting.entries import BundleEntry, FileEntry
from edgecompress.reporting.numbers import as_text, fact, grouped, scientific, score_text
from edgecompress.reporting.pairs import Pair
from edgecompress.reporting.scores import Scores, Split
from edgecompress.reporting.table import Table
from edgecompress.reporting.wording import core_of, runtime_text, tokens_text


def scores_by_stage(scores: Scores | None, unit: str) -> list[tuple[str, str]]:
    """The scores that are known, in the order of the stages."""
    known = scores or Scores()
    scored = (
        ("Dense model", known.dense),
        ("After decomposition", known.decomposed),
        ("After fine-tuning", known.finetuned if known.stored is None else known.stored),
        ("Exported file", known.artifact),
    )
    return [(title, score_text(score, unit)) for title, score in scored if score is not None]


def artifacts_table(files: Sequence[FileEntry]) -> Table:
    """Every exported file with its digest and how far it is from PyTorch."""
    rows = [
        (
            file.role,
            file.target,
            file.path,
            file.sha256,
            grouped(file.size_bytes),
            grouped(file.zipped_bytes),
            "not run here" if file.max_abs_error is None else scientific(file.max_abs_error),
            "" if file.sqnr_db is None else f"{file.sqnr_db:.1f}",
        )
        for file in files
    ]
    head = ("Role", "Target", "File", "SHA-256", "Bytes", "Zipped", "Max abs error", "SQNR, dB")
    return Table("Artifacts", head, tuple(rows), range(4, len(head)), "files")


def by_notice(files: Sequence[FileEntry]) -> list[tuple[str, str]]:
    """Each thing to know of how files came about, after the names of those that it is true of."""
    found: dict[str, list[str]] = {}
    for file in files:
        for notice in file.notices:
            found.setdefault(notice, []).append(file.path)
    return [(", ".join(paths), notice) for notice, paths in found.items()]


def notices_table(files: Sequence[FileEntry]) -> Table | None:
    """What to know of the files; None where there is nothing."""
    rows = tuple(by_notice(files))
    return Table("How the files came about", ("File", "Notice"), rows, range(0), "prose") if rows else None


def bundles_table(bundles: Sequence[BundleEntry]) -> Table:
    """What an app grows by: the bytes of each bundle's model beside those of the library that runs it."""
    rows = [
        (
            one.platform,
            one.manifest,
            f"{one.runtime} {one.version or ''}".strip(),
            one.source or "not known",
            grouped(one.model_bytes),
            _bytes(one.library_bytes),
            _bytes(one.library_bytes_compressed),
        )
        for one in bundles
    ]
    head = (
        "Platform",
        "Manifest",
        "Runtime",
        "Its bytes are of",
        "Model, bytes",
        "Runtime, bytes",
        "Downloaded, bytes",
    )
    return Table("Bundles", head, tuple(rows), range(4, len(head)), "bundles")


def _bytes(count: int | None) -> str:
    return "not known" if count is None else grouped(count)


def environment(pair: AnyComparison) -> list[tuple[str, str]]:
    """Device, runtime and how often both models ran."""
    device, runtime = pair.device, pair.runtime
    return [
        ("Provenance", device.provenance),
        ("Device", device.name),
        ("Processor", device.processor or "not named by the system"),
        ("Architecture", device.machine),
        ("Cores", str(device.cores)),
        ("System", device.system),
        *(fact(key, value) for key, value in device.more.items()),
        ("Runtime", runtime_text(runtime)),
        *((key.capitalize(), as_text(value)) for key, value in runtime.items() if key not in ("name", "version")),
        ("Python on the device", device.python),
        ("Threads", str(pair.threads)),
        ("Batch", str(pair.batch)),
        *(() if pair.length is None else (("Input", tokens_text(pair.length, pair.past)),)),
        *_repetitions(pair),
    ]


def _repetitions(pair: AnyComparison) -> Iterator[tuple[str, str]]:
    if isinstance(pair, InstructionComparison):
        yield "Emulated core", core_of(pair)
        counts = (pair.baseline_counts, pair.candidate_counts)
        yield "Counted inferences (dense and compressed)", " and ".join(str(len(one.per_inference)) for one in counts)
        return
    blocks, loads = pair.repetitions
    yield "Loads of each file", str(loads)
    yield "Blocks of each model", str(blocks)
    latencies = Pair(pair.baseline_latency.statistics, pair.candidate_latency.statistics)
    yield "Runs (dense and compressed)", " and ".join(f"{latency.runs:,}" for latency in latencies)


def conditions_table(pair: AnyComparison) -> Table | None:
    """What may change while measuring, before and after; None where the device reports nothing."""
    conditions = pair.conditions if isinstance(pair, TimedPair) else {}
    before, after = conditions.get("before") or {}, conditions.get("after") or {}
    rows = tuple(
        (fact(key, None)[0], fact(key, before.get(key))[1], fact(key, after.get(key))[1])
        for key in dict.fromkeys([*before, *after])
    )
    if not rows:
        return None
    return Table("Conditions before and after measuring", ("Condition", "Before", "After"), rows, range(1, 3))


def data_table(data: Mapping[str, Split]) -> Table:
    """Every split with its size and where it comes from."""
    rows = tuple((name, split.origin, grouped(split.items)) for name, split in data.items())
    return Table("Data", ("Split", "Origin", "Items"), rows, range(2, 3))
