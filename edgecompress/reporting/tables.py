"""The report's tables, as text: the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgecompress.files import Json
from edgecompress.profiling.ratios import apart
from edgecompress.reporting.charts import OUTSIDE, OUTSIDE_OPERATORS, drift_text, method_text
from edgecompress.reporting.wording import (
    BYTES,
    COUNT,
    NO_DIFFERENCE,
    ROLES,
    TIME,
    Unit,
    accuracies,
    change,
    core_of,
    fact,
    grouped,
    interval_text,
    is_counted,
    metric_of,
    milliseconds,
    minus,
    place_of,
    plain,
    ratio_of,
    runtime_text,
    scientific,
    score_difference,
    score_text,
    score_verdict,
    significant,
    time_change,
    verdict_of,
)

MARKS = ("min", "p50", "p90", "p99", "mean", "stdev")
ROLE_OF = {"baseline": "dense", "candidate": "compressed"}
"""A comparison's names for the two models, and the report's."""


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, column heads and rows of text; the columns in ``numbers`` stand right-aligned."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: range = range(0)
    kind: str = ""

    @property
    def aligned(self) -> tuple[bool, ...]:
        """Of each column, whether it holds numbers."""
        return tuple(column in self.numbers for column in range(len(self.head)))


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the before/after table: texts, and the exact values behind them or empty strings."""

    label: str
    dense: str
    compressed: str
    change: str
    dense_exact: str = ""
    compressed_exact: str = ""


def _row(label: str, values: Sequence[float | None], unit: Unit, changed: str | None = None) -> Row:
    """A row from the dense and the compressed model's value; ``changed`` is for what wavers from run to run."""
    before, after = values
    shown, exact = [unit.text(value) for value in values], [unit.in_full(value) for value in values]
    words = change(before, after) if changed is None else changed
    return Row(label, shown[0], shown[1], words, exact[0], exact[1])


# -- before and after ------------------------------------------------------------------------------------------------


def before_and_after(document: Json) -> list[tuple[str, list[Row]]]:
    """Groups of rows, each with its title."""
    comparison, profiles = document["comparison"], document["profiles"] or {}
    counted = is_counted(comparison)
    groups = [
        ("Task", [_accuracy_row(document)]),
        ("Model", list(_model_rows(document["cost"]))),
        ("Exported file", list(_file_rows(document))),
    ]
    if counted:
        title = f"Instructions under {core_of(comparison)} (emulated; no time)"
        return [*groups, (title, list(_instruction_rows(comparison)))]
    groups.append((_latency_title(comparison), list(_latency_rows(comparison))))
    alone = [("Each model alone in a process of its own", list(_process_rows(profiles)))] if profiles else []
    return [*groups, *alone]


def _latency_title(comparison: Json | None) -> str:
    if comparison and comparison["provenance"] != "measured":
        return f"Time, {comparison['provenance']}: not the latency of any device"
    return "Latency, taking turns in one process"


def _accuracy_row(document: Json) -> Row:
    test = (document["data"] or {}).get("test")
    metric = metric_of(document)
    name, unit = metric["name"].capitalize(), Unit(lambda score: score_text(score, metric["unit"]))
    label = f"{name} on {test['items']:,} test items" if test else name
    before, after = accuracies(document["accuracy"])
    if before is None or after is None:
        return Row(label, unit.text(before), unit.text(after), "")
    verdict = score_verdict(score_difference(document), metric["unit"])
    return Row(label, unit.text(before), unit.text(after), minus(verdict))


def _model_rows(cost: Json) -> Iterator[Row]:
    labels = {"params": "Parameters", "macs": "MACs of one input", "flops": "FLOPs of one input (2 × MACs)"}
    for key, label in labels.items():
        yield _row(label, _of_roles(cost, key), COUNT)
    yield _row("Weights (parameters and buffers)", _of_roles(cost, "weight_bytes"), BYTES)


def _file_rows(document: Json) -> Iterator[Row]:
    files = {role: artifact_of(document, role) for role in ROLES}
    yield _row("File size", _of_roles(files, "size_bytes"), BYTES)
    yield _row("Zipped size (DEFLATE)", _of_roles(files, "zipped_bytes"), BYTES)
    yield _row("Weights within the file", _of_roles(document["profiles"], "weight_bytes"), BYTES)


def _of_roles(parts: Mapping[str, Json] | None, key: str) -> list[float | None]:
    """One value for each role; None where it is not known."""
    return [((parts or {}).get(role) or {}).get(key) for role in ROLES]


def artifact_of(document: Json, role: str) -> Json:
    """The first artifact of that role, or nothing."""
    found: Json = next((artifact for artifact in document["artifacts"] if artifact["role"] == role), {})
    return found


def _instruction_rows(comparison: Json) -> Iterator[Row]:
    counts = [comparison[f"{model}_counts"] for model in ROLE_OF]
    yield _row("Instructions of one inference", [count["least"] for count in counts], COUNT)
    yield _row("Instructions of loading the file", [count["load"] for count in counts], COUNT)
    yield Row("Instructions, dense over compressed", "1×", f"{comparison['instruction_ratio']:.3f}×", "")


def latencies(comparison: Json) -> tuple[Json, Json]:
    """Of the dense and of the compressed model."""
    return comparison["baseline_latency"], comparison["candidate_latency"]


def _latency_rows(comparison: Json | None) -> Iterator[Row]:
    if comparison is None:
        yield Row("Latency", "not measured", "not measured", "")
        return
    before, after = latencies(comparison)
    known = comparison.get("quantiles") or {}
    for mark in ("p50", "p90", "p99", "min"):
        change = time_change(known[mark]) if mark in known else ""
        yield _row(f"Wall time, {mark}", (before["wall"][mark], after["wall"][mark]), TIME, change)
    if cpu := ratio_of(comparison, "cpu"):
        change = time_change({"value": 1 / cpu[0], "ci95": [1 / cpu[2], 1 / cpu[1]]})
        yield _row("CPU time, p50", (before["cpu"]["p50"], after["cpu"]["p50"]), TIME, change)
    for clock, name in (("wall", "wall"), ("cpu", "CPU")):
        ratio = ratio_of(comparison, clock)
        if ratio:
            label = f"Speed-up, {name} time (95 % interval)"
            yield Row(label, "1×", f"{ratio[0]:.3f}×", f"{ratio[1]:.3f} to\N{NO-BREAK SPACE}{ratio[2]:.3f}")


def _process_rows(profiles: Json) -> Iterator[Row]:
    alone = {role: profile["latency"]["wall"] for role, profile in profiles.items()}
    for label, key in {"Load time": "load_ms", "First run": "first_run_ms"}.items():
        starts = [(profile.get("cold") or {}).get(key) or () for profile in (profiles[role] for role in ROLES)]
        values = _of_roles(profiles, key)
        yield _row(label, values, TIME, change(*values) if apart(*starts) else NO_DIFFERENCE if all(starts) else "")
    yield _row("Wall time, p50", _of_roles(alone, "p50"), TIME, "")
    yield _row("Peak memory (RSS)", _of_roles(profiles, "peak_rss_bytes"), BYTES)
    yield _row("… of which before loading", _of_roles(profiles, "runtime_rss_bytes"), BYTES)


# -- layers ----------------------------------------------------------------------------------------------------------


def layer_methods(layers: Sequence[Json]) -> Table:
    """Every layer with what became of it."""
    rows = [(layer["name"], layer["kind"], _method_or_reason(layer), _error(layer["error"])) for layer in layers]
    head = ("Layer", "Kind", "Method (ranks), or why it stays dense", "Error")
    return Table("Layers: what became of each", head, tuple(rows), range(3, len(head)), "layers")


def _method_or_reason(layer: Json) -> str:
    text = method_text(layer)
    return f"{text}: {layer['reason']}" if not layer["method"] and layer["reason"] else text


def _error(error: float | None) -> str:
    return "" if error is None else f"{error:.4f}"


def outside_layers(document: Json) -> dict[str, Json]:
    """Times that are no layer's, by what they are: operators of no layer, and the rest of a run."""
    times = document.get("file_times") or {}
    known = {OUTSIDE: document.get("outside_layers"), OUTSIDE_OPERATORS: times.get("outside_operators")}
    return {name: one for name, one in known.items() if one and any(one[role] is not None for role in ROLES)}


def layers_of(document: Json) -> list[Json]:
    """Layers with the times that may be compared.

    In documents of before the profiler's part was told apart, a chain's times hold more of it than a dense layer's:
    nothing is called slower by them.
    """
    known = document.get("file_times") is not None
    return [layer if known else {**layer, "slower": None} for layer in document["layers"]]


def layer_costs(document: Json) -> Table:
    """Work, storage and time of every layer, before and after; the time only if it is known of any."""
    layers, cost, outside = document["layers"], document["cost"], outside_layers(document)
    timed = any(layer[role].get("wall_ms") is not None for layer in layers for role in ROLES)
    columns = ("macs", "params", "bytes", *(("wall_ms",) if timed else ()))
    rows = [
        (layer["name"], *(_cell(key, layer[role].get(key)) for key in columns for role in ROLES)) for layer in layers
    ]
    times = (document.get("file_times") or {}).get("whole") or {}
    whole = {role: {**cost[role], "bytes": cost[role]["weight_bytes"], "wall_ms": times.get(role)} for role in ROLES}
    for name, one in outside.items() if timed else ():
        rest = {role: {"wall_ms": one[role]} for role in ROLES}
        rows.append((name, *(_blank_or(key, rest[role]) for key in columns for role in ROLES)))
    rows.append(("Whole model", *(_blank_or(key, whole[role]) for key in columns for role in ROLES)))
    titles = {"macs": "MACs", "params": "Parameters", "bytes": "Bytes", "wall_ms": "ms"}
    head = ("Layer", *(f"{titles[key]}, {role}" for key in columns for role in ROLES))
    return Table("Layers: work, storage and time", head, tuple(rows), range(1, len(head)), "layers totals")


def _cell(key: str, value: float | None) -> str:
    if key != "wall_ms":
        return grouped(value)
    return "not timed" if value is None else significant(value)


def _blank_or(key: str, values: Json) -> str:
    return "" if values.get(key) is None else _cell(key, values[key])


def layers_replaced(layers: Sequence[Json]) -> str:
    """A sentence on how many layers were replaced."""
    replaced = sum(1 for layer in layers if layer["method"])
    return f"{replaced} of {len(layers)} layers were replaced by chains of smaller ones."


def left_dense(layers: Sequence[Json]) -> Table | None:
    """Reasons, each with the layers it holds for; None if none was left."""
    reasons: dict[str, list[str]] = {}
    for layer in layers:
        if not layer["method"]:
            reasons.setdefault(layer["reason"] or "no reason on record", []).append(layer["name"])
    rows = tuple((reason, ", ".join(names), str(len(names))) for reason, names in reasons.items())
    return (
        Table("Layers left dense, and why", ("Reason", "Layers", "Count"), rows, range(2, 3), "prose") if rows else None
    )


def slower_layers(layers: Sequence[Json]) -> str:
    """A sentence on the layers that got slower; nothing where no layer was compared."""
    slower = [layer["name"] for layer in layers if layer.get("slower")]
    if slower:
        verb = "layer got" if len(slower) == 1 else "layers got"
        return f"{len(slower)} {verb} slower than before: {', '.join(slower)}.{_proof(layers)}"
    compared = any(layer.get("slower") is False for layer in layers)
    return "No layer whose time could be compared got slower." if compared else ""


def _proof(layers: Sequence[Json]) -> str:
    """What shows it: with how much the whole file gains by each of these layers being dense."""
    shown = {layer["name"]: layer["ablation"] for layer in layers if layer.get("slower") and layer.get("ablation")}
    gains = [
        f"{name} {interval_text(1 / one['speedup'], *(1 / end for end in reversed(one['ci95'])))}"
        for name, one in shown.items()
    ]
    return f" With it dense in its place, taking turns, the whole file is faster: {', '.join(gains)}." if gains else ""


# -- latency ---------------------------------------------------------------------------------------------------------


def latency_table(comparison: Json) -> Table:
    """Statistics of both models and clocks."""
    clocks = {"wall": "wall"} | ({"cpu": "CPU"} if ratio_of(comparison, "cpu") else {})
    rows = [
        (f"{role}, {title}", grouped(latency["runs"]), *(significant(latency[clock][mark]) for mark in MARKS))
        for role, latency in zip(ROLES, latencies(comparison), strict=True)
        for clock, title in clocks.items()
    ]
    return Table("Time in milliseconds", ("Time", "Runs", *MARKS), tuple(rows), range(1, 8))


def threads_table(comparison: Json, others: Sequence[Json]) -> Table:
    """The speed-up at every number of threads that was measured."""
    rows = [_threads_row(one) for one in sorted((comparison, *others), key=lambda one: one["threads"])]
    head = ("Threads", "Verdict", "Speed-up, wall time", "Speed-up, CPU time", "Dense p50", "Compressed p50")
    return Table("Speed-up by number of threads (95 % interval)", head, tuple(rows), range(2, len(head)))


def _threads_row(comparison: Json) -> tuple[str, ...]:
    medians = (milliseconds(latency["wall"]["p50"]) for latency in latencies(comparison))
    verdict = verdict_of(comparison) + (", unstable" if comparison["unstable"] else "")
    return (str(comparison["threads"]), verdict, *(_ratio(comparison, clock) for clock in ("wall", "cpu")), *medians)


def _ratio(comparison: Json, clock: str) -> str:
    ratio = ratio_of(comparison, clock)
    return f"{ratio[0]:.3f}× ({ratio[1]:.3f} to {ratio[2]:.3f})" if ratio else "not told"


def instabilities(document: Json) -> list[tuple[str, str]]:
    """Which measurement is not to be trusted, and why."""
    comparison, profiles = document["comparison"], document["profiles"] or {}
    measured = {"both models, taking turns": comparison or {}}
    measured |= {f"both models with {one['threads']} threads": one for one in document.get("threads") or ()}
    measured |= {f"{role} model alone": profile for role, profile in profiles.items()}
    return [(name, reason) for name, one in measured.items() for reason in one.get("unstable") or ()]


def sustained_of(document: Json) -> dict[str, Json]:
    """Both models' minutes under load: taking turns, else each alone, else nothing."""
    comparison, profiles = document["comparison"] or {}, document["profiles"] or {}
    together = comparison.get("sustained") or {}
    if together:
        return {role: together[name] for name, role in ROLE_OF.items() if name in together}
    return {role: profiles[role]["sustained"] for role in ROLES if (profiles.get(role) or {}).get("sustained")}


def sustained_sentences(sustained: Mapping[str, Json]) -> list[str]:
    """Drift of each model in words, with the range of clock and temperature where they are known."""
    ranges = {role: _range(run, "clock_mhz") + _range(run, "temperature_c") for role, run in sustained.items()}
    return [f"{role}: {drift_text(run)}{ranges[role]}." for role, run in sustained.items()]


def _range(run: Json, key: str) -> str:
    known = [value for value in run[key] if value is not None]
    if not known:
        return ""
    label, least = fact(key, min(known))
    most = fact(key, max(known))[1]
    number = least.rsplit(" ", 1)[0]
    return f"; {label.lower()} {f'{number} to ' if most != least else ''}{most}"


def minutes_under_load(sustained: Mapping[str, Json]) -> str:
    """From the first window to the last."""
    return f"{max(run['start_s'][-1] for run in sustained.values()) / 60:.1f}"


def windows_table(sustained: Mapping[str, Json]) -> Table:
    """Every window of every model."""
    rows = [
        (role, f"{start:,.0f}", significant(wall), _known(clock, ",.0f"), _known(temperature, ".1f"))
        for role, run in sustained.items()
        for start, wall, clock, temperature in zip(
            run["start_s"], run["wall_ms"], run["clock_mhz"], run["temperature_c"], strict=True
        )
    ]
    head = ("Model", "From, s", "Median wall time, ms", "Clock, MHz", "Temperature, °C")
    return Table("Windows under load", head, tuple(rows), range(1, len(head)))


def _known(value: float | None, form: str) -> str:
    return "not told" if value is None else format(value, form)


def mix_table(comparison: Json) -> Table:
    """Instructions of one inference by class, with shares."""
    before, after = (comparison[f"{model}_counts"] for model in ROLE_OF)
    names = dict.fromkeys([*before["mix"], *after["mix"]])
    pairs = {name.replace("_", " "): (before["mix"].get(name, 0), after["mix"].get(name, 0)) for name in names}
    rows = [(name, *_with_shares(pair, (before, after)), change(*pair)) for name, pair in pairs.items()]
    whole = (before["least"], after["least"])
    rows.append(("One inference", grouped(whole[0]), "", grouped(whole[1]), "", change(*whole)))
    head = ("Class", "Dense", "Share", "Compressed", "Share", "Change")
    return Table("Instructions of one inference by class", head, tuple(rows), range(1, len(head)), "totals")


def _with_shares(pair: Sequence[int], counts: Sequence[Json]) -> Iterator[str]:
    for value, count in zip(pair, counts, strict=True):
        yield grouped(value)
        yield f"{100 * value / count['least']:.1f} %"


# -- accuracy and what was tried -------------------------------------------------------------------------------------


def stages(accuracy: Json | None, unit: str) -> list[tuple[str, str]]:
    """The scores that are known, in the order of the stages."""
    titles = {
        "dense": "Dense model",
        "decomposed": "After decomposition",
        "finetuned": "After fine-tuning",
        "artifact": "Exported file",
    }
    known = accuracy or {}
    scored = ((title, known.get(stage)) for stage, title in titles.items())
    return [(title, score_text(score, unit)) for title, score in scored if score is not None]


def plans(document: Json) -> list[Json]:
    """The dense model, then every plan tried, numbered; this run's own if none of them is the chosen one."""
    tried = [{**plan, "mark": "chosen" if plan["chosen"] else "other"} for plan in document.get("tried") or ()]
    if not any(plan["chosen"] for plan in tried):
        tried.append({**_own(document, "compressed"), "name": "this run", "mark": "chosen"})
    place = next(plan["place"] for plan in tried if plan["mark"] == "chosen")
    dense = {**_own(document, "dense"), "name": "dense model", "mark": "dense", "place": place, "number": 0}
    return [dense, *({**plan, "number": number} for number, plan in enumerate(tried, 1))]


def _own(document: Json, role: str) -> Json:
    """What this run found out about one of its two models."""
    comparison = document["comparison"]
    timed = comparison if comparison and not is_counted(comparison) else None
    index = ROLES.index(role)
    return {
        "accuracy": accuracies(document["accuracy"])[index],
        "macs": document["cost"][role]["macs"],
        "size_bytes": artifact_of(document, role).get("size_bytes"),
        "wall_ms": latencies(timed)[index]["wall"]["p50"] if timed and timed["provenance"] == "measured" else None,
        "place": place_of(comparison) if comparison else "",
    }


def of_the_chosen_place(found: Sequence[Json]) -> list[Json]:
    """Only those plans may be drawn against one axis of latency."""
    place = next(plan["place"] for plan in found if plan["mark"] == "chosen")
    return [plan for plan in found if plan["place"] == place]


def plans_table(found: Sequence[Json], metric: Mapping[str, str]) -> Table:
    """Every plan with what it came to; what was timed elsewhere than the chosen one says where."""
    place = next(plan["place"] for plan in found if plan["mark"] == "chosen")
    columns: dict[str, Callable[[Json], str]] = {
        "Plan": _plan_name,
        metric["name"].capitalize(): lambda plan: _score(plan["accuracy"], metric),
        "MACs": lambda plan: COUNT.text(plan["macs"]),
        "File": lambda plan: BYTES.text(plan["size_bytes"]),
        "Wall time, p50": lambda plan: TIME.text(plan["wall_ms"]),
        "Made in": lambda plan: _seconds(plan.get("seconds")),
        "Timed elsewhere": lambda plan: "" if plan["wall_ms"] is None or plan["place"] == place else plan["place"],
    }
    timed = any(plan["wall_ms"] is not None for plan in found)
    if not timed:
        del columns["Wall time, p50"]
    texts = {name: [text(plan) for plan in found] for name, text in columns.items()}
    shown = {name: cells for name, cells in texts.items() if any(cells)}
    caption = f"Plans tried, timed on {place}" if timed else "Plans tried"
    numbers = range(1, len(shown) - ("Timed elsewhere" in shown))
    return Table(caption, tuple(shown), tuple(zip(*shown.values(), strict=True)), numbers, "prose")


def _score(value: float | None, metric: Mapping[str, str]) -> str:
    return "not measured" if value is None else score_text(value, metric["unit"])


def _plan_name(plan: Json) -> str:
    if plan["mark"] == "dense":
        return f"{plan['name']} (reference)"
    return f"{plan['number']}. {plan['name']}{' (chosen)' if plan['mark'] == 'chosen' else ''}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f} s"


# -- provenance ------------------------------------------------------------------------------------------------------


def artifacts_table(artifacts: Sequence[Json]) -> Table:
    """Every exported file with its digest and how far it is from PyTorch."""
    rows = [
        (
            artifact["role"],
            artifact["target"],
            artifact["path"],
            artifact["sha256"],
            grouped(artifact["size_bytes"]),
            grouped(artifact["zipped_bytes"]),
            "not run here" if artifact["max_abs_error"] is None else scientific(artifact["max_abs_error"]),
            "" if artifact["sqnr_db"] is None else f"{artifact['sqnr_db']:.1f}",
        )
        for artifact in artifacts
    ]
    head = ("Role", "Target", "File", "SHA-256", "Bytes", "Zipped", "Max abs error", "SQNR, dB")
    return Table("Artifacts", head, tuple(rows), range(4, len(head)), "files")


def environment(comparison: Json) -> list[tuple[str, str]]:
    """Device, runtime and how often both models ran."""
    device, runtime = comparison["device"], comparison["runtime"]
    return [
        ("Provenance", comparison["provenance"]),
        ("Device", device["name"]),
        ("Processor", device["processor"] or "not named by the system"),
        ("Architecture", device["machine"]),
        ("Cores", str(device["cores"])),
        ("System", device["system"]),
        *(fact(key, value) for key, value in device["more"].items()),
        ("Runtime", runtime_text(runtime)),
        *((key.capitalize(), plain(value)) for key, value in runtime.items() if key not in ("name", "version")),
        ("Python on the device", device["python"]),
        ("Threads", str(comparison["threads"])),
        ("Batch", str(comparison["batch"])),
        *_repetitions(comparison),
    ]


def _repetitions(comparison: Json) -> Iterator[tuple[str, str]]:
    if is_counted(comparison):
        yield "Emulated core", core_of(comparison)
        counts = [len(comparison[f"{model}_counts"]["per_inference"]) for model in ROLE_OF]
        yield "Counted inferences (dense and compressed)", " and ".join(map(str, counts))
        return
    yield "Loads of each file", str(comparison["loads"])
    yield "Blocks of each model", str(comparison["blocks"])
    yield "Runs (dense and compressed)", " and ".join(f"{latency['runs']:,}" for latency in latencies(comparison))


def conditions_table(comparison: Json) -> Table | None:
    """What may change while measuring, before and after; None where the device tells nothing."""
    told = comparison.get("conditions") or {}
    before, after = told.get("before") or {}, told.get("after") or {}
    rows = tuple(
        (fact(key, None)[0], fact(key, before.get(key))[1], fact(key, after.get(key))[1])
        for key in dict.fromkeys([*before, *after])
    )
    return (
        Table("Conditions before and after measuring", ("Condition", "Before", "After"), rows, range(1, 3))
        if rows
        else None
    )


def pairs(caption: str, rows: Iterable[tuple[str, object]], head: tuple[str, str] = ("Fact", "Value")) -> Table:
    """Names and values."""
    return Table(caption, head, tuple((name, plain(value)) for name, value in rows), kind="pairs")


def data_table(data: Json) -> Table:
    """Every split with its size and where it comes from."""
    rows = tuple((split, facts["origin"], grouped(facts["items"])) for split, facts in data.items())
    return Table("Data", ("Split", "Origin", "Items"), rows, range(2, 3))
