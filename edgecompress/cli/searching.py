"""``search``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.building import methods_from, scope_from, selector_from
from edgecompress.cli.commands import Command
from edgecompress.cli.display import complain, print_json, say
from edgecompress.cli.options import (
    calibrate_option,
    force_option,
    json_option,
    output_option,
    seed_option,
    selection_options,
    trust_option,
)
from edgecompress.cli.planning import check_plan_file, planned, print_plan

if TYPE_CHECKING:
    from edgecompress.selectors import Selector

STUDY_FILE, USUAL_SEARCH = "study.log", "search"


@click.command(
    cls=Command,
    epilog="Example: edgecompress search smollm2 --evaluations 12 --keep 0.8 --of params -o out/search",
)
@click.argument("model")
@selection_options
@calibrate_option
@seed_option
@trust_option
@output_option("Folder for the best plan, and for the study where --storage names no other place.")
@force_option
@json_option
def search(model: str, trust: bool, output: Path, force: bool, as_json: bool, **given: Any) -> None:
    """Try whole plans and keep the best; given again it goes on, given twice at once both share one study."""
    from edgecompress.planning.layer_costs import layer_costs
    from edgecompress.sources import resolve
    from edgecompress.sources.compressed_folder import PLAN_FILE

    by, scope = _searching(given, output), scope_from(given, methods_from(given))
    check_plan_file(output / PLAN_FILE, model, force=force)
    sample = resolve(model, trust=trust)
    built = sample.model()
    made = planned(sample, built, by, scope, given)
    made.save(output / PLAN_FILE)
    if as_json:
        print_json(made.to_json())
    else:
        print_plan(made, layer_costs(built, sample.inputs, made))
        say(f"plan: {output / PLAN_FILE}; next: edgecompress run {model} --plan {output / PLAN_FILE} -o FOLDER")


def _searching(given: dict[str, Any], output: Path) -> Selector:
    """The rule that searches, its study in the folder unless it is kept elsewhere."""
    from edgecompress.selectors.search import Search
    from edgecompress.selectors.studies import JOURNAL

    by = selector_from(given, given["select"] or USUAL_SEARCH)
    if not isinstance(by, Search):
        raise click.UsageError(
            f"--select {by.name} tries no plans: use `edgecompress plan`, or --select {USUAL_SEARCH}"
        )
    if not by.storage:
        given = {**given, "select": by.name, "storage": f"{JOURNAL}{output / STUDY_FILE}"}
        by = selector_from(given, by.name)
    complain(f"note: the study is in {by.storage}")  # type: ignore[attr-defined]
    return by
