"""The manifest of a fleet: which models, each with what clean set, of which task.

A folder, a pattern or a list names models alone, as for `onnx-soda scan`. A table names more: CSV
with a header, JSON lines, or Parquet, told by the ending. Its columns are `model`, which must be
there, `data`, `task`, and options of a scan (`ROW_OPTIONS`). An empty cell takes what the command
says. Paths are relative to the table.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from onnx_soda._batch import find_models
from onnx_soda._detect.base import DETECTORS
from onnx_soda._errors import FleetError, OptionError
from onnx_soda._options import AUTO, BudgetName, ScanOptions, ScanRequest
from onnx_soda._system import require_modules
from onnx_soda._words import printable

ROW_OPTIONS = ("method", "preprocess", "layer", "logits", "budget")
"""Options of a scan that a table may set for each model."""
_OWN = ("model", "data", "task")
_LARGEST = 2**28
# `ScanOptions` does not check them itself, since the command line does.
_BUDGETS = get_args(BudgetName)


@dataclass(frozen=True)
class Entry:
    """A model of a fleet.

    Attributes:
        model: Its path.
        data: Its clean set; None for none.
        task: What its classes are, in a word: models of one task can be compared.
        options: Options of its scan that differ from those of the command, by name.
    """

    model: Path
    data: Path | None = None
    task: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Path of the model as it is told to people, and kept."""
        return str(self.model)

    def asked(self, common: ScanRequest) -> Asked:
        """Return what is asked for of it.

        Args:
            common: What the command says for all.
        """
        options = _anywhere(replace(common.options, **self.options))
        data = self.data or common.data
        request = replace(
            common,
            model=self.model.absolute(),
            data=None if data is None else data.absolute(),
            options=options,
        )
        return Asked(self.place, self.task, request)


@dataclass(frozen=True)
class Asked:
    """A model of a fleet, with all that its scan depends on.

    Attributes:
        place: Path of the model as it is told to people, and kept.
        task: As in `Entry`.
        request: Its scan; paths are absolute.
    """

    place: str
    task: str
    request: ScanRequest


def _anywhere(options: ScanOptions) -> ScanOptions:
    """Return options that mean the same in another folder: the scan may be begun again there."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).absolute()) if path and Path(path).exists() else path

    data = options.data
    data = replace(data, labels=absolute(data.labels), data_root=absolute(data.data_root))
    return replace(options, preprocess=absolute(options.preprocess), data=data)


def read_manifest(source: str) -> tuple[Entry, ...]:
    """Read a manifest.

    Args:
        source: A table, or what `find_models` takes.

    Raises:
        FleetError: The table cannot be read, or a row makes no sense.
        ModelFileError: There is no model.
        MissingExtraError: A Parquet table needs pyarrow.
    """
    path = Path(source)
    reader = _READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        return tuple(Entry(model) for model in find_models([source]))
    if path.stat().st_size > _LARGEST:
        raise FleetError(f"{path.name} is too large for a manifest", "Split it.")
    try:
        rows = list(reader(path))
    except (OSError, ValueError, csv.Error) as error:
        raise FleetError(
            f"{path.name} cannot be read as a manifest: {error}",
            "Write CSV with a header, JSON lines, or Parquet, with a column `model`.",
        ) from error
    entries = tuple(_entry(row, number, path) for number, row in enumerate(rows, 1))
    if not entries:
        raise FleetError(f"{path.name} names no model", "Write a row for each model.")
    return entries


def _csv(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        yield from csv.DictReader(lines)


def _json_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("a line is no JSON object")
            yield row


def _parquet(path: Path) -> Iterable[Mapping[str, Any]]:
    require_modules("Parquet tables need", ("pyarrow",), "parquet")
    from pyarrow import ArrowException, parquet

    try:
        rows: list[Mapping[str, Any]] = parquet.read_table(path).to_pylist()
    except ArrowException as error:
        raise ValueError(str(error).partition("\n")[0]) from error
    return rows


_READERS = {".csv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines, ".parquet": _parquet}


def _entry(row: Mapping[str, Any], number: int, table: Path) -> Entry:
    where = f"row {number} of {table.name}"
    unknown = [name for name in row if name not in (*_OWN, *ROW_OPTIONS)]
    if unknown:
        raise FleetError(
            f"{where} has the column {printable(str(unknown[0]))!r}, which is not known",
            f"Columns are {', '.join((*_OWN, *ROW_OPTIONS))}.",
        )
    cells = {name: value for name, value in row.items() if value not in (None, "")}
    for name, value in cells.items():
        if not isinstance(value, str) or "\0" in value:
            raise FleetError(f"{where}: {name} is no text", "Write a path or a word.")
    if "model" not in cells:
        raise FleetError(f"{where} names no model", "Fill the column `model`.")
    if cells.get("budget", "default") not in _BUDGETS:
        raise FleetError(f"{where}: budget is none of {', '.join(_BUDGETS)}", "Mend the row.")
    if cells.get("method", AUTO) != AUTO:
        try:
            DETECTORS.find(cells["method"])
        except OptionError as error:
            raise FleetError(f"{where}: {error.message}", error.advice) from error
    here = table.parent
    data = cells.get("data")
    return Entry(
        here / cells["model"],
        None if data is None else here / data,
        cells.get("task", ""),
        {name: cells[name] for name in ROW_OPTIONS if name in cells},
    )


def shard_of(entries: Sequence[Entry], number: int, of: int) -> tuple[Entry, ...]:
    """Return one of several parts of a fleet, the same on every machine.

    Args:
        entries: All.
        number: Of the part, from 1.
        of: How many parts there are.

    Raises:
        ValueError: There is no such part.
    """
    if not 1 <= number <= of:
        raise ValueError(f"a shard is from 1/{of} to {of}/{of}, not {number}/{of}")
    return tuple(entry for entry in entries if _hash(entry) % of == number - 1)


def _hash(entry: Entry) -> int:
    # By name and options, not by the whole path: a fleet may be mounted elsewhere on each machine.
    parts = (entry.model.name, entry.model.parent.name, sorted(entry.options.items()))
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8])
