"""Options from a file that is named by --config; none is ever looked for."""

from __future__ import annotations

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["ConfigOption"]

_TABLE = "scan"


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the file's values where the command line gives none."""
    if path is None or context.resilient_parsing:
        return path
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{path.name} cannot be read: {error}") from error
    others = [name for name in content if name != _TABLE]
    if others or not isinstance(content.get(_TABLE, {}), dict):
        raise typer.BadParameter(f"{path.name} has more than the table [{_TABLE}]")
    context.default_map = {**(context.default_map or {}), **_by_parameter(context, path, content)}
    return path


def _by_parameter(context: typer.Context, path: Path, content: dict[str, Any]) -> dict[str, Any]:
    names: dict[str, Any] = {
        option.removeprefix("--"): parameter
        for parameter in context.command.params
        if parameter.param_type_name == "option"
        for option in parameter.opts
        if option.startswith("--")
    }
    del names["config"]
    values = {}
    for key, value in content.get(_TABLE, {}).items():
        if key not in names:
            near = get_close_matches(key, names, 1)
            hint = f"; do you mean {near[0]!r}?" if near else ""
            raise typer.BadParameter(f"{path.name} has {key!r}, which is no option{hint}")
        several = names[key].multiple and not isinstance(value, list)
        values[names[key].name or ""] = [value] if several else value
    return values


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        callback=_read_config,
        is_eager=True,
        help="TOML file with options under [scan].",
    ),
]
