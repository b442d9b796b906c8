"""Options from a file, classes from a file, and the command line that repeats a run."""

from __future__ import annotations

import csv
import json
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from onnx_soda._options import DataOptions, check_class_order

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
        raise typer.BadParameter(_misplaced(path, content, others))
    context.default_map = {**(context.default_map or {}), **_by_parameter(context, path, content)}
    return path


def _misplaced(path: Path, content: dict[str, Any], others: list[str]) -> str:
    """Say what does not belong into a file, and where options go."""
    if not others:
        return f"{path.name} gives {_TABLE!r} a value: options go below a line [{_TABLE}]"
    names = ", ".join(f"[{name}]" if isinstance(content[name], dict) else name for name in others)
    return f"{path.name} has more than the table [{_TABLE}]: {names}; options go below a line " + (
        f"[{_TABLE}]"
    )


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


# What a run says and where; not what it does.
_LEFT_OUT = frozenset(
    {
        *("format_", "output", "report_output", "class_map_output", "quiet", "verbose", "debug"),
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
    return value.name if isinstance(value, Path) else str(value)


def class_order(path: Path | None) -> tuple[int, ...] | None:
    """Read a JSON list of class numbers.

    Raises:
        BadParameter: It is none, or cannot be read.
    """
    if path is None:
        return None
    try:
        found = msgspec.json.decode(path.read_bytes(), type=tuple[int, ...])
        check_class_order(found)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise typer.BadParameter(
            f"{path.name} is no JSON list of class numbers, as [2, 0, 1]: {_reason(error)}",
            param_hint="--reference-classes",
        ) from error
    return found


def _reason(error: Exception) -> str:
    """Return why a file cannot be read, without the path to it."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def data_options(class_map: Path | None, labels: Path | None, root: Path | None) -> DataOptions:
    """Return how a clean set is read.

    Raises:
        BadParameter: The class map is none, or cannot be read.
    """
    try:
        found = None if class_map is None else _class_map(class_map)
        places = (None if place is None else str(place) for place in (labels, root))
        return DataOptions(found, *places)
    except (OSError, ValueError, csv.Error, msgspec.MsgspecError) as error:
        assert class_map is not None  # noqa: S101 - nothing else is read
        raise typer.BadParameter(
            f'{class_map.name} is no class map, as {{"cat": 3, "dog": 0}}, [3, 0], or lines '
            f"label,class: {_reason(error)}",
            param_hint="--class-map",
        ) from error


def _class_map(path: Path) -> Mapping[str, int | None]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.lstrip().startswith(("{", "[")):
        return _class_map_of(list(csv.reader(text.splitlines())))
    decoded = json.loads(text, object_pairs_hook=_once_each)
    found = msgspec.convert(decoded, dict[str, int | None] | list[int | None], strict=True)
    if isinstance(found, dict):
        return found
    return {str(number): of_model for number, of_model in enumerate(found)}


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, in which no name may stand twice."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the label {name!r} is named more than once")
        found[name] = value
    return found


def _class_map_of(rows: list[list[str]]) -> Mapping[str, int | None]:
    """Return the class map in rows of label and class; a first row without a number is a header."""
    kept = [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]
    if kept and len(kept[0]) == 2 and kept[0][1] and not kept[0][1].isdecimal():
        kept = kept[1:]
    for row in kept:
        if len(row) != 2 or not (row[1].isdecimal() or not row[1]):
            raise ValueError(f"the line {','.join(row)!r} is no label and class number")
    return _once_each([(label, int(number) if number else None) for label, number in kept])
