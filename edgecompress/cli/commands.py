"""Commands whose help is short until one asks for all of it, with options and commands under headings."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from edgecompress.cli.fields import FORMER, Option, own_options
from edgecompress.cli.types import DeviceName, TableChoice, nearest
from edgecompress.files import resource

ARGUMENTS = "edgecompress.arguments"
"""Key of a context's meta: what was typed after the command's name."""
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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Of an unknown option the nearest are named, and the commands that have it; of what is missing an example."""
        ctx.meta[ARGUMENTS] = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _explained(error, self, ctx) from None
        except click.MissingParameter as error:
            example = (self.epilog or "").partition("Example: ")[2]
            raise click.UsageError(f"{error.format_message().rstrip('.')}; as in: {example}", ctx) from None

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


def _explained(error: click.NoSuchOption, command: click.Command, ctx: click.Context) -> click.NoSuchOption:
    """The same error with what may have been meant."""
    own = {option.lstrip("-"): option for option in _spellings(command, ctx)}
    near = [own[name] for name in nearest(error.option_name.lstrip("-"), own)]
    owners = (f"{spelled} is an option of {', '.join(names)}" for spelled, names in _owners(error.option_name, ctx))
    where = "; ".join(owners)
    message = f"{error.message.rstrip('.')}: {where}." if where else error.message
    return click.NoSuchOption(error.option_name, message, near, ctx)


def _spellings(command: click.Command, ctx: click.Context) -> Iterator[str]:
    """Of all long options of a command."""
    for param in command.get_params(ctx):
        yield from (name for name in (*param.opts, *param.secondary_opts) if name.startswith("--"))


def _owners(option: str, ctx: click.Context) -> Iterable[tuple[str, list[str]]]:
    """The other commands that have an option, by its whole spelling there; for ``--batch`` those with a former one."""
    group = ctx.parent.command if ctx.parent else None
    found: dict[str, list[str]] = {}
    for name, command in group.commands.items() if isinstance(group, click.Group) else ():
        for param in command.get_params(ctx):
            if option in (*param.opts, *param.secondary_opts, FORMER.get(str(param.name))):
                found.setdefault(param.opts[0], []).append(name)
    return found.items()


def _is_advanced(param: click.Parameter) -> bool:
    return isinstance(param, Option) and not param.basic


def _heading(param: click.Parameter) -> str:
    return getattr(param, "group", "") or OTHERS


def _headings(params: Sequence[click.Parameter]) -> Iterator[str]:
    """In order of their first option; what has none comes last."""
    found = dict.fromkeys(_heading(param) for param in params if isinstance(param, click.Option))
    yield from (heading for heading in found if heading != OTHERS)
    yield OTHERS


def _is_model(text: str) -> bool:
    """Whether what was typed is a sample, or named as files are that hold a model."""
    samples = tomllib.loads((resource("sample_models") / "info.toml").read_text(encoding="utf-8"))
    return text in samples or Path(text).suffix in (".py", ".onnx", ".pt2")


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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A MODEL in place of a command is named as such."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if _is_model(args[0]):
                message = f"{args[0]!r} is a MODEL, and a command comes before it: edgecompress inspect {args[0]}"
                raise click.UsageError(message, ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A section for each heading."""
        del ctx
        for heading, commands in self.headings.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(str(command.name), command.get_short_help_str(LONGEST_SUMMARY)) for command in commands]
                )
