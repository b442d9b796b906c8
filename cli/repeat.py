"""The command line that repeats a run, with files by their names."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

__all__ = ["repeat_command"]

# What a run says and where; not what it does.
_LEFT_OUT = frozenset(
    {
        *("format_", "output", "report_output", "quiet", "verbose", "debug"),
        *("config", "cache", "cache_dir", "jobs"),
    }
)


def repeat_command(context: typer.Context, *kept: str) -> str:
    """Return a command with the options that were given.

    Args:
        context: The run.
        kept: Parameters that it cannot do without, though they only say where results go.
    """
    parts = ["onnx-soda", context.info_name or ""]
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        given = source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP")
        if given and (name in kept or name not in _LEFT_OUT):
            parts.extend(_words(parameter, context.params[name]))
    return shlex.join(parts)


def _words(parameter: Any, value: Any) -> Iterator[str]:
    values = value if isinstance(value, list | tuple) else [value]
    if parameter.param_type_name == "argument":
        yield from (Path(_word(one)).name for one in values)
    elif parameter.name == "preprocess":
        yield from (max(parameter.opts, key=len), Path(value).name)
    elif isinstance(value, bool):
        yield (parameter.opts if value else parameter.secondary_opts or parameter.opts)[0]
    else:
        longest = max(parameter.opts, key=len)
        for one in values:
            yield from (longest, _word(one))


def _word(value: Any) -> str:
    if isinstance(value, Path):
        return value.name
    return str(value.value if isinstance(value, Enum) else value)
