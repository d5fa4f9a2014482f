"""``inspect`` and ``list``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.commands import Command
from edgecompress.cli.display import print_json, print_table, say, showing_progress
from edgecompress.cli.options import json_option, trust_option

if TYPE_CHECKING:
    from torch import nn

    from edgecompress.advising import Int8, Reach
    from edgecompress.models import Sample

TABLES = (
    "methods",
    "selectors",
    "recipes",
    "targets",
    "devices",
    "sources",
    "adapters",
    "platforms",
    "samples",
    "timings",
)
"""What there is to choose from; all but samples and timings can be added to."""


@click.command(cls=Command, epilog="Example: edgecompress inspect resnet20")
@click.argument("model")
@trust_option
@json_option
def inspect(model: str, trust: bool, as_json: bool) -> None:
    """Show layers, parameters and MACs, which methods can decompose each layer, and what low rank can reach.

    What int8 buys instead is measured on this machine, where that takes seconds.
    """
    from edgecompress.costs import cost
    from edgecompress.reporting.wording import layer_label
    from edgecompress.running.advice import int8_sentence, reach_sentences
    from edgecompress.sources import resolve

    sample = resolve(model, trust=trust)
    built = sample.model()
    total, layers = cost(built, sample.inputs), _layers(built, sample.inputs)
    reach, int8 = _advice(built, sample)
    if as_json:
        measured = int8.to_json() if int8 and not isinstance(int8, str) else None
        facts = {"model": sample.name, "cost": total.to_json(), "layers": layers}
        print_json({**facts, "reach": reach.to_json() if reach else None, "int8": measured})
        return
    counted = sum(item["macs"] or 0 for item in layers)
    rows = [
        (
            layer_label(item["name"]),
            item["kind"],
            item["params"],
            item["macs"],
            ", ".join(item["methods"]) or item["reason"],
        )
        for item in layers
    ]
    if counted != total.macs:
        rows.append(("(all other products)", "", None, total.macs - counted, "attention, recurrent and other layers"))
    print_table(sample.name, ("layer", "kind", "parameters", "MACs", "methods"), rows)
    say(f"{total.params:,} parameters, {total.macs:,} MACs of one input ({total.flops:,} FLOPs = 2 x MACs)")
    for sentence in (*(reach_sentences(reach) if reach else ()), *([int8_sentence(int8)] if int8 else ())):
        say(sentence)


def _advice(built: nn.Module, sample: Sample) -> tuple[Reach | None, Int8 | str]:
    """What low rank can reach; and what int8 buys instead, as far as it takes seconds.

    Nothing for a model that no plan can be made of: `plan` says why.
    """
    from edgecompress.advising import LEAST_MACS, MOST_MACS, measured_int8, reach_of
    from edgecompress.errors import EdgeCompressError
    from edgecompress.planning import EVERYTHING, survey

    try:
        reach = reach_of(survey(built, sample.inputs, EVERYTHING), EVERYTHING)
    except EdgeCompressError:
        return None, ""
    if reach.macs < LEAST_MACS:
        return reach, ""
    if reach.macs > MOST_MACS:
        return reach, "it would take longer than some seconds: see `export --quantize int8` and `profile --baseline`"
    with showing_progress() as progress:
        progress("measure int8", 0, 1, "")
        return reach, measured_int8(built, sample)


def _layers(model: Any, inputs: Any) -> list[dict[str, Any]]:
    from edgecompress.costs import input_shapes
    from edgecompress.decompositions import DECOMPOSITIONS
    from edgecompress.layers import describe, weighted_layers
    from edgecompress.planning.layer_costs import countable_cost

    shapes = input_shapes(model, inputs)
    return [
        {
            "name": item.name,
            "kind": describe(item.layer),
            **countable_cost(item.layer, shapes.get(item.name, [])),
            "methods": [] if item.refused else [n for n, m in DECOMPOSITIONS.items() if m.supports(item.layer)],
            "reason": item.refused or None,
        }
        for item in weighted_layers(model)
    ]


@click.command("list", cls=Command, epilog="Example: edgecompress list samples")
@click.argument("what", type=click.Choice(TABLES))
@json_option
def list_entries(what: str, as_json: bool) -> None:
    """Show what there is to choose from."""
    entries = {"samples": _samples, "timings": _timings}.get(what, lambda: _table(what))()
    if as_json:
        print_json({what: entries})
        return
    names = list(next(iter(entries.values()), {}))
    heads = (name.replace("_", " ") for name in names)
    print_table(what, (what[:-1], *heads), [(name, *facts.values()) for name, facts in entries.items()])


def _samples() -> dict[str, dict[str, Any]]:
    from edgecompress.sources import sample_facts

    columns = ("title", "dataset", "params", "macs", "test_accuracy", "licence")
    return {name: {column: facts.get(column) for column in columns} for name, facts in sample_facts().items()}


def _timings() -> dict[str, dict[str, Any]]:
    """Times that were taken before, by file."""
    from edgecompress.timing.caching import known_files

    columns = ("target", "device", "machine", "runtime", "threads", "batch", "timings")
    return {facts["file"]: {column: facts.get(column) for column in columns} for facts in known_files()}


def _table(what: str) -> dict[str, dict[str, Any]]:
    from edgecompress.adapters import ADAPTERS
    from edgecompress.cli.doctor import found_of
    from edgecompress.codecs import CODECS
    from edgecompress.decompositions import DECOMPOSITIONS
    from edgecompress.devices import DEVICES, forms
    from edgecompress.platforms import PLATFORMS
    from edgecompress.recipes import RECIPES
    from edgecompress.selectors import SELECTORS
    from edgecompress.sources import SOURCES
    from edgecompress.tables import Table
    from edgecompress.targets import TARGETS

    tables: dict[str, tuple[Table[Any], ...]] = {
        "methods": (DECOMPOSITIONS, CODECS),
        "selectors": (SELECTORS,),
        "recipes": (RECIPES,),
        "targets": (TARGETS,),
        "devices": (DEVICES,),
        "sources": (SOURCES,),
        "adapters": (ADAPTERS,),
        "platforms": (PLATFORMS,),
    }
    entries = {name: {"summary": line} for table in tables[what] for name, line in table.facts("summary").items()}
    if what == "devices":
        return {form: {"summary": kind.summary} for form, kind in forms().items()}
    if what == "targets":
        for name, facts in entries.items():
            facts |= {"precisions": ", ".join(TARGETS[name].precisions), "installed": found_of(TARGETS[name])}
    return entries
