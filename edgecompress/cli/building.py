"""Values for the stages, from what the command line was given; options that do not go together are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from edgecompress.cli.fields import Option, offered, own_options
from edgecompress.cli.options import AUTO_MULTIPLE, EVERY_METHOD
from edgecompress.cli.types import table_of
from edgecompress.settings import USUAL_DEVICE, USUAL_SELECTOR, USUAL_TARGET, DeviceOptions, FineTuning, Scope, Storage

if TYPE_CHECKING:
    from edgecompress.models import Sample
    from edgecompress.recipes.base import Recipe
    from edgecompress.selectors import Selector
    from edgecompress.timing.planning import Place

Value = TypeVar("Value")
Given = Mapping[str, Any]
"""Values by the names of options: None, or an empty tuple, where nothing was given."""


LIMITS = "ceilings"
"""The rule that takes limits of several kinds."""
GIVEN = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)


def is_typed(name: str) -> bool:
    """Was this option given, on the command line or in a --config?"""
    return click.get_current_context().get_parameter_source(name) in GIVEN


def typed_options() -> Iterator[Option]:
    """The options that were given on the command line, or in a --config."""
    context = click.get_current_context()
    for option in context.command.get_params(context):
        if isinstance(option, Option) and is_typed(str(option.name)):
            yield option


def fields_given(cls: type, given: Given) -> dict[str, Any]:
    """For the fields of a dataclass what was given, by a field's name."""
    values = {}
    for field, info in offered(cls):
        value = given.get(info.filled_by or info.name or field.name)
        if info.filled_by and isinstance(value, tuple):
            value = value[0] if value and value[0] != EVERY_METHOD else None
        if value not in (None, ()):
            values[field.name] = value
    return values


def made(cls: type[Value], given: Given, **more: Any) -> Value:
    """A dataclass of what was given; its own defaults for the rest."""
    return cls(**fields_given(cls, given), **more)


def methods_from(given: Given) -> tuple[str, ...]:
    """Names of decompositions or codecs; ``auto`` among them, or none, means every decomposition."""
    methods: tuple[str, ...] = given.get("method") or ()
    return () if EVERY_METHOD in methods else methods


def scope_from(given: Given, methods: tuple[str, ...]) -> Scope:
    """What may be chosen of these methods; the multiple of ranks as given, or as it was measured."""
    multiple = _multiple_here() if given.get("multiple") == AUTO_MULTIPLE else given.get("multiple")
    return made(Scope, {**given, "method": methods, "multiple": multiple})


def _multiple_here() -> int:
    """By times on the device that is planned for; without any by a table."""
    from edgecompress.timing.plateaus import known_multiple, measured_multiple

    params = click.get_current_context().params
    target, device = (params.get("targets") or (USUAL_TARGET,))[0], params.get("device") or USUAL_DEVICE
    found, source = measured_multiple(target, device), "timings"
    if found is None:
        found, source = known_multiple(target, device), "a table of runtimes"
    click.echo(f"note: ranks are multiples of {found}, for {target} on {device}: by {source}", err=True)
    return found


def one_of(values: Sequence[Value], option: str) -> Value:
    """The only one of an option that may be repeated elsewhere."""
    if len(values) > 1:
        raise click.UsageError(f"{option}: times are of one; {len(values)} were given")
    return values[0]


def place_from(given: Given) -> Place:
    """What a latency is of: target, device, threads."""
    from edgecompress.devices import device_named
    from edgecompress.targets import target_named
    from edgecompress.timing.planning import Place

    target = one_of(given.get("targets") or (USUAL_TARGET,), "--target")
    threads = one_of(given.get("threads") or (1,), "--threads")
    device = device_named(given.get("device") or USUAL_DEVICE, made(DeviceOptions, given))
    return Place(target_named(target), device, threads)


# -- tables whose entries have options ---------------------------------------------------------------------------------


def _options() -> dict[str, click.Parameter]:
    context = click.get_current_context()
    return {str(param.name): param for param in context.command.get_params(context)}


def _is_given(given: Given, name: str) -> bool:
    return given.get(name) not in (None, ())


def _own_names(cls: type) -> dict[str, str]:
    """The options of an entry of this class, by name, as they are spelled."""
    names = [info.name or field.name for field, info in offered(cls) if not info.filled_by]
    return {name: f"--{name.replace('_', '-')}" for name in names}


def _refuse_strays(chooser: Option, chosen: str, given: Given) -> None:
    """Refuse an option of an entry that was not chosen; one that the command has anyway is nobody's own."""
    table, flag, options = table_of(chooser.table), chooser.opts[0], _options()
    own = _own_names(type(table[chosen])) if chosen in table else {}
    owned = {made.name for made in own_options(chooser) if options[str(made.name)] is made}
    for owner, entry in table.items():
        for name, spelled in _own_names(type(entry)).items():
            if name in own or name not in owned or not _is_given(given, name):
                continue
            instead = f"; with {flag} {chosen} use {' or '.join(own.values())}" if own else f", not to {flag} {chosen}"
            raise click.UsageError(f"{spelled} belongs to {flag} {owner}{instead}")


def _entry(option: str, chosen: str, given: Given) -> Any:
    """An entry of the table that an option chooses from, with the options given for it; None where it is in none."""
    chooser = _options()[option]
    assert isinstance(chooser, Option)
    _refuse_strays(chooser, chosen, given)
    entry: Any = table_of(chooser.table).get(chosen)
    values = fields_given(type(entry), given)
    return replace(entry, **values) if values else entry


def selector_from(given: Given, chosen: str) -> Selector:
    """The rule that chooses ranks, with its options."""
    selector: Selector = _entry("select", chosen, given)
    return selector


def recipe_from(given: Given) -> Recipe | None:
    """The recipe with its options, None where there is none."""
    recipe: Recipe | None = _entry("recipe", given["recipe"], given)
    return recipe


def usual_selector(given: Given) -> str:
    """The rule that goes with the limits that were given."""
    from edgecompress.selectors import SELECTORS

    limits = _own_names(type(SELECTORS[LIMITS])).keys() - _own_names(type(SELECTORS[USUAL_SELECTOR]))
    return LIMITS if any(_is_given(given, name) for name in limits) else USUAL_SELECTOR


def select_from(given: Given) -> str:
    """The name of the rank rule that goes with what was given; a recipe may need one, and say why."""
    from edgecompress.recipes import RECIPES
    from edgecompress.selectors import SELECTORS

    chosen, recipe = given["select"], RECIPES.get(given["recipe"])
    if recipe is None:
        return chosen or usual_selector(given)
    needs = recipe.needs
    if any(_is_given(given, name) for name in _own_names(type(SELECTORS[USUAL_SELECTOR]))):
        chosen = chosen or USUAL_SELECTOR
    if needs.other_selector and chosen not in (None, needs.selector):
        raise click.UsageError(f"--recipe {given['recipe']} {needs.other_selector}")
    if needs.other_method and set(methods_from(given)) - set(needs.methods):
        raise click.UsageError(f"--recipe {given['recipe']} {needs.other_method}")
    return chosen or needs.selector


# -- codecs ------------------------------------------------------------------------------------------------------------


def storage_from(given: Given, methods: tuple[str, ...]) -> Storage | None:
    """The options of a codec, None where none is among the methods; refuses options that do not go together."""
    from edgecompress.codecs import CODECS

    codec = next((method for method in methods if method in CODECS), None)
    if codec is None:
        for name, spelled in _own_names(Storage).items():
            if _is_given(given, name):
                raise click.UsageError(f"{spelled} belongs to --method {' or '.join(CODECS)}")
        return None
    _refuse_beside_codec(codec, methods)
    if _is_given(given, "keep"):
        _check_core_size(codec, given)
    return made(Storage, {**given, **_core_levels(given)}, codec=codec)


def _core_levels(given: Given) -> dict[str, int]:
    """The core is rounded as the other factors, unless it is said how."""
    return {} if given.get("core_levels") or not given.get("levels") else {"core_levels": given["levels"]}


def _refuse_beside_codec(codec: str, methods: tuple[str, ...]) -> None:
    if len(methods) > 1:
        raise click.UsageError(f"--method {codec} stores every layer it can; give it without other methods")
    for option in typed_options():
        if not option.codecs:
            raise click.UsageError(f"{option.opts[0]} does not go with --method {codec}")


def _check_core_size(codec: str, given: Given) -> None:
    if _is_given(given, "rank"):
        raise click.UsageError("--rank and --keep both say how large the core is; drop one of them")
    if given.get("of") not in (None, "params"):
        raise click.UsageError(f"--method {codec} saves no {given['of']}: its --keep is of the params")


# -- training ----------------------------------------------------------------------------------------------------------


def tuning_from(sample: Sample, given: Given, *, coded: bool = False) -> FineTuning:
    """The fine-tuning options with the defaults that depend on the sample, or on a codec."""
    from edgecompress.running.options import tuning_defaults

    values = fields_given(FineTuning, given)
    return FineTuning(**{**tuning_defaults(sample, values.get("optimizer"), coded=coded), **values})
