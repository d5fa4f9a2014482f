"""Commands whose help is short until one asks for all of it, with options and commands under headings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click

from edgecompress.cli.fields import Option, own_options
from edgecompress.cli.types import DeviceName, TableChoice

ALL = "edgecompress.help_all"
"""Key of a context's meta: all options are asked for."""
OTHERS = "Options"
"""Heading of what has no other."""
LONGEST_SUMMARY = 200
"""Characters of a command's line in the group's help, which is wrapped rather than cut short."""


def _show_all(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta[ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()


HELP_ALL = Option(
    ["--help-all"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_all,
    help="Show all options, and what there is to choose from.",
)


class Command(click.Command):
    """A command of the group."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own, those of the tables' entries, and ``--help-all`` where some are not shown without it."""
        *params, help_option = super().get_params(ctx)
        found: dict[str, click.Parameter] = {}
        for param in params:
            found[str(param.name)] = param
            for own in own_options(param) if isinstance(param, Option) and param.table else ():
                found.setdefault(str(own.name), own)
        params = [*found.values(), help_option]
        return [*params, HELP_ALL] if any(map(_is_advanced, params)) else params

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options under their headings; the basic ones unless all are asked for."""
        everything = ctx.meta.get(ALL, False)
        params = [param for param in self.get_params(ctx) if everything or not _is_advanced(param)]
        params.sort(key=_is_advanced)
        for heading in _headings(params):
            records = [param.get_help_record(ctx) for param in params if _heading(param) == heading]
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record is not None])
        for param in params if everything else ():
            self._format_choices(param, formatter)

    def _format_choices(self, param: click.Parameter, formatter: click.HelpFormatter) -> None:
        """What each name of a table means."""
        if isinstance(param.type, TableChoice | DeviceName) and (summaries := param.type.summaries()):
            with formatter.section(f"Values of {param.opts[0]}"):
                formatter.write_dl(list(summaries.items()))


def _is_advanced(param: click.Parameter) -> bool:
    return isinstance(param, Option) and not param.basic


def _heading(param: click.Parameter) -> str:
    return getattr(param, "group", "") or OTHERS


def _headings(params: Sequence[click.Parameter]) -> Iterator[str]:
    """In order of their first option; what has none comes last."""
    found = dict.fromkeys(_heading(param) for param in params if isinstance(param, click.Option))
    yield from (heading for heading in found if heading != OTHERS)
    yield OTHERS


class Group(click.Group):
    """Commands in the order in which they were added, under headings."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.headings: dict[str, list[click.Command]] = {}

    def add_section(self, heading: str, commands: Sequence[click.Command]) -> None:
        """Add commands that stand together in the help."""
        self.headings[heading] = list(commands)
        for command in commands:
            self.add_command(command)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names in the order of the work."""
        del ctx
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for each heading."""
        del ctx
        for heading, commands in self.headings.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(str(command.name), command.get_short_help_str(LONGEST_SUMMARY)) for command in commands]
                )
