"""Options made of the fields of dataclasses: name, type, range, default and help are said there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from edgecompress.cli.types import Number, Odd, table_of
from edgecompress.fields import OptionInfo

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator = Callable[[Any], Any]

FORMER = {"portions": "--stages", "calibrate": "--calibration", "batch_size": "--batch"}
"""Old spellings of options, by name: still accepted, shown nowhere."""


class Option(click.Option):
    """An option that stands under a heading.

    Args:
        group: the heading; none: that of all others.
        basic: is it shown before one asks for all options?
        chooses: does it make the choice that a plan holds?
        codecs: does it go with a codec?
        table: what its value is a name of, where entries of the table have options of their own.
    """

    def __init__(
        self,
        *arguments: Any,
        group: str = "",
        basic: bool = True,
        chooses: bool = False,
        codecs: bool = True,
        table: str = "",
        **attributes: Any,
    ) -> None:
        super().__init__(*arguments, **attributes)
        self.group, self.basic, self.chooses, self.codecs, self.table = group, basic, chooses, codecs, table

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Besides the help: no range, which the message to a wrong number has."""
        extra = super().get_help_extra(ctx)
        extra.pop("range", None)
        return extra

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Accept the old spelling too."""
        shown = self.opts
        self.opts = [*shown, FORMER[self.name]] if self.name in FORMER else shown
        super().add_to_parser(parser, ctx)
        self.opts = shown


def option(*names: str, **attributes: Any) -> Callable[[Command], Command]:
    """A decorator: an :class:`Option`."""
    return click.option(*names, cls=Option, **attributes)


def together(*decorators: Decorator) -> Callable[[Command], Command]:
    """Several decorators as one, first on top."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


def offered(cls: type) -> Iterator[tuple[dataclasses.Field[Any], OptionInfo]]:
    """The fields of a dataclass that a command line offers."""
    for field in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if "option" in field.metadata:
            yield field, field.metadata["option"]


def options_of(
    cls: type,
    *names: str,
    group: str = "",
    which: Callable[[OptionInfo], bool] = lambda _info: True,
    **attributes: Mapping[str, Any],
) -> Callable[[Command], Command]:
    """A decorator: the options that the fields of a dataclass are.

    Args:
        cls: the dataclass.
        names: its fields; none: all that are offered.
        group: the heading they stand under.
        which: of them.
        attributes: for a field's name more that click should know of its option.
    """
    made = [
        option(
            *_spelled(field, info),
            **{**_attributes(cls, field, info), "group": group, **attributes.get(field.name, {})},
        )
        for field, info in offered(cls)
        if not info.filled_by and which(info) and (not names or field.name in names)
    ]
    return together(*made)


def own_options(chooser: Option) -> tuple[Option, ...]:
    """Of each entry of the table that an option chooses from, the options that its fields are."""
    entries = tuple((name, type(entry)) for name, entry in table_of(chooser.table).items())
    return _own_options(chooser.opts[0], chooser.group, entries)


@cache
def _own_options(flag: str, group: str, entries: tuple[tuple[str, type], ...]) -> tuple[Option, ...]:
    made = []
    for name, cls in entries:
        for field, info in offered(cls):
            attributes = _attributes(cls, field, info)
            if not info.basic:
                attributes["help"] = f"With {flag} {name}: {attributes['help']}"
            if not info.filled_by:
                made.append(Option(_spelled(field, info), **attributes, group=group))
    return tuple(made)


def _spelled(field: dataclasses.Field[Any], info: OptionInfo) -> tuple[str, ...]:
    name = (info.name or field.name).replace("_", "-")
    return (f"--{name}/--no-{name}" if field.default is True else f"--{name}",)


def _attributes(cls: type, field: dataclasses.Field[Any], info: OptionInfo) -> dict[str, Any]:
    """What click should know of an option; its own default is None, so that one sees what was given."""
    usual = (info.usual or "{}").format(_as_text(field.default))
    return {
        "default": None,
        "help": f"{info.help} [{usual}]" if usual else info.help,
        "basic": info.basic,
        "chooses": info.chooses,
        "codecs": info.codecs,
        **_typed(get_type_hints(cls)[field.name], info),
    }


def _as_text(default: object) -> str:
    """A default in words, none where it is no news."""
    if isinstance(default, bool):
        return "on" if default else ""
    return f"{default:g}" if isinstance(default, int | float) else str(default or "")


def _typed(hint: Any, info: OptionInfo) -> dict[str, Any]:
    """Click's type for the type of a field."""
    (hint, *_) = [part for part in get_args(hint) if part is not NoneType] if NoneType in get_args(hint) else [hint]
    if hint is bool:
        return {"is_flag": True}
    if get_origin(hint) is Literal:
        return {"type": click.Choice(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": get_args(hint)[0], "multiple": True, "default": (), "metavar": "NAME"}
    if hint is Path:
        return {"type": click.Path(path_type=Path)}
    if hint in (int, float):
        return {"type": _number(hint, info), "metavar": "NUMBER" if hint is float else "N"}
    return {"type": hint}


def _number(hint: type, info: OptionInfo) -> click.IntRange | click.FloatRange:
    """A number in the range of a field."""
    low, high = (info.low if info.above is None else info.above), (info.high if info.below is None else info.below)
    kind = Number if hint is float else Odd if info.odd else click.IntRange
    return kind(low, high, min_open=info.above is not None, max_open=info.below is not None)  # type: ignore[arg-type]
