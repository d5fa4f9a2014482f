"""``--config``: the options of a run in a file, which a run also writes, so that it can be committed and repeated."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from edgecompress import __version__
from edgecompress.cli.commands import ARGUMENTS
from edgecompress.cli.fields import option
from edgecompress.cli.types import nearest

FILE = "run.toml"
"""What a run writes into its folder."""
NOT_WRITTEN = ("output", "force", "as_json", "trust", "config", "quiet", "verbose", "help", "log")
"""Parameters that are about where and how, and not about what."""
MODEL = "model"


def _read(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Take the file's options as defaults: what is typed goes before them."""
    if path is None or ctx.resilient_parsing:
        return path
    known = {_key(one): one for one in ctx.command.get_params(ctx) if one.name not in NOT_WRITTEN[1:]}
    values: dict[str, Any] = {}
    for name, value in _loaded(path, param, ctx).items():
        key = name.replace("_", "-")
        if key not in known:
            near = nearest(key, known)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(sorted(known))}"
            raise click.BadParameter(f"{path}: no option {name!r}{hint}", ctx, param)
        values[str(known[key].name)] = _typed(value, known[key], f"{path}: {name}", param)
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return path


def _loaded(path: Path, param: click.Parameter, ctx: click.Context) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise click.BadParameter(f"{path}: {why[0].lower()}{why[1:]}; a run writes one as {FILE}", ctx, param) from None


def _typed(value: Any, of: click.Parameter, where: str, param: click.Parameter) -> Any:
    """A value as the command line would give it."""
    repeated = isinstance(of, click.Option) and of.multiple
    if repeated and not isinstance(value, list):
        value = [value]
    if isinstance(value, dict) or (isinstance(value, list) and not repeated):
        raise click.BadParameter(f"{where}: one value was expected", param=param)
    if getattr(of, "is_flag", False) and not isinstance(value, bool):
        raise click.BadParameter(f"{where}: true or false was expected", param=param)
    return value


config_option = option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read,
    help=f"Options in a file, MODEL among them, as {FILE} that every run writes; typed ones go before them.",
)


def written() -> str:
    """The options of this command as such a file."""
    context = click.get_current_context()
    lines = [f"# {typed()}", f"# edgecompress {__version__}; again: edgecompress run --config {FILE} -o FOLDER"]
    return "\n".join([*lines, *_lines(context), ""])


def _lines(context: click.Context) -> Iterator[str]:
    from edgecompress.cli.building import is_typed

    for param in context.command.get_params(context):
        name = str(param.name)
        if name not in NOT_WRITTEN and (name == MODEL or is_typed(name)):
            yield f"{_key(param)} = {_toml(context.params[name])}"


def _key(param: click.Parameter) -> str:
    return param.opts[0].lstrip("-").replace("_", "-")


def _toml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)


def typed() -> str:
    """The command as it was typed."""
    context = click.get_current_context()
    return shlex.join(["edgecompress", str(context.info_name), *context.meta.get(ARGUMENTS, [])])
