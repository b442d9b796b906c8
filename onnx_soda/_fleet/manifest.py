"""The manifest of a fleet: which models, each with what clean set, of which task.

A folder, a pattern or a list names models alone, as for `onnx-soda scan`. A table names more: CSV
with a header, JSON lines, or Parquet, told by the ending. Its columns are `model`, which must be
there, `data`, `task`, `sha256`, and options of a scan (`ROW_OPTIONS`). An empty cell takes what the
command says. Paths are relative to the table. A model may have an address in place of a path; it is
fetched where it is scanned, and gone afterwards.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args
from urllib.parse import quote, unquote, urlsplit

from onnx_soda._batch import ENDINGS, find_models
from onnx_soda._detect.base import DETECTORS
from onnx_soda._errors import FleetError, OptionError, SodaError
from onnx_soda._fetch import DIGEST, Wanted, addresses_below, fetch, pin, place_of, shown
from onnx_soda._options import AUTO, BudgetName, ScanOptions, ScanRequest, no_progress
from onnx_soda._sandbox.process import private_folder
from onnx_soda._system import require_modules
from onnx_soda._words import printable

ROW_OPTIONS = ("method", "preprocess", "layer", "logits", "budget")
"""Options of a scan that a table may set for each model."""
_OWN = ("model", "data", "task", "sha256")
_LARGEST = 2**28
# Two letters or more, so that it is no drive of Windows.
_SCHEME = re.compile("[a-z][a-z0-9+.:-]+://")
# `ScanOptions` does not check them itself, since the command line does.
_BUDGETS = get_args(BudgetName)


@dataclass(frozen=True)
class Source:
    """Where a model is fetched from, before it is scanned.

    Attributes:
        url: The address.
        sha256: What the file must have; None where any will do.
        facts: What tells that it is still the same, see `onnx_soda._fetch.pin`; "" where that was
            not asked yet.
    """

    url: str
    sha256: str | None = None
    facts: str = ""

    @property
    def wanted(self) -> Wanted:
        """What is to be fetched."""
        return Wanted(sha256=self.sha256, here=True)

    @property
    def secret(self) -> bool:
        """Whether there may be something secret in the address: a user, or what stands behind ?."""
        return shown(self.url) != self.url

    def pinned(self) -> Source:
        """Return it with what lies there now; what cannot be asked is left for the scan to tell."""
        try:
            url, facts = pin(self.url, self.wanted)
        except SodaError as error:
            return replace(self, facts=f"not known: {error.message}")
        return replace(self, url=url, facts=facts)


@dataclass(frozen=True)
class FleetRequest(ScanRequest):
    """A scan of a model that may have to be fetched.

    Attributes:
        source: Where from; None where it lies at its path.
    """

    source: Source | None = None


@dataclass(frozen=True)
class Entry:
    """A model of a fleet.

    Attributes:
        model: Its path.
        data: Its clean set; None for none.
        task: What its classes are, in a word: models of one task can be compared.
        options: Options of its scan that differ from those of the command, by name.
        source: Where it is fetched from; then the path is that behind its address.
    """

    model: Path
    data: Path | None = None
    task: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    source: Source | None = None

    @property
    def place(self) -> str:
        """Path of the model as it is told to people, and kept."""
        return str(self.model) if self.source is None else shown(self.source.url)

    def asked(self, common: ScanRequest) -> Asked:
        """Return what is asked for of it.

        Args:
            common: What the command says for all.
        """
        options = _anywhere(replace(common.options, **self.options))
        data = self.data or common.data
        shared = {one.name: getattr(common, one.name) for one in fields(ScanRequest)}
        shared["model"] = Path(self.model.name) if self.source else self.model.absolute()
        shared["data"] = None if data is None else data.absolute()
        shared["options"] = options
        request = FleetRequest(**shared, source=self.source)
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
    request: FleetRequest


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
        source: A table, what `find_models` takes, or the address of a table, a model or a folder.

    Raises:
        FleetError: The table cannot be read, or a row makes no sense.
        ModelFileError: There is no model.
        MissingExtraError: A Parquet table needs pyarrow; addresses need fsspec.
        SodaError: An address cannot be fetched.
    """
    path = Path(source)
    if _SCHEME.match(source) and not path.exists():
        return _read_address(source)
    if path.suffix.lower() not in _READERS or not path.is_file():
        return tuple(Entry(model) for model in find_models([source]))
    return _read_table(path, str(path.parent))


def _read_address(url: str) -> tuple[Entry, ...]:
    wanted = Wanted(here=True)
    path = PurePosixPath(urlsplit(url).path)
    if path.suffix.lower() in _READERS:
        with private_folder() as folder:
            _, files = fetch(url, place_of(url, wanted), folder, wanted, no_progress)
            return _read_table(files[0].path, url.rpartition("/")[0])
    if path.suffix.lower() in ENDINGS:
        return (_entry_at(url),)
    models = [one for one in addresses_below(url, wanted) if Path(one).suffix.lower() in ENDINGS]
    if not models:
        raise FleetError(
            f"{shown(url)} holds no model", f"Models end in {', '.join(sorted(ENDINGS))}."
        )
    return tuple(map(_entry_at, models))


def _entry_at(url: str, sha256: str | None = None) -> Entry:
    """Return the entry of a model at an address; refuse those that cannot be fetched."""
    source = Source(url, sha256)
    place_of(url, source.wanted)
    parts = urlsplit(url)
    return Entry(Path(unquote(f"{parts.netloc.rpartition('@')[2]}{parts.path}")), source=source)


def _read_table(path: Path, folder: str) -> tuple[Entry, ...]:
    """Read a table.

    Args:
        path: The table.
        folder: What paths in it are relative to: a folder, or the address of one.
    """
    if path.stat().st_size > _LARGEST:
        raise FleetError(f"{path.name} is too large for a manifest", "Split it.")
    try:
        rows = list(_READERS[path.suffix.lower()](path))
    except (OSError, ValueError, csv.Error) as error:
        raise FleetError(
            f"{path.name} cannot be read as a manifest: {error}",
            "Write CSV with a header, JSON lines, or Parquet, with a column `model`.",
        ) from error
    entries = tuple(
        _entry(row, f"row {number} of {path.name}", folder) for number, row in enumerate(rows, 1)
    )
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


def _entry(row: Mapping[str, Any], where: str, folder: str) -> Entry:
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
    entry = _located(cells, where, folder)
    return replace(
        entry,
        task=cells.get("task", ""),
        options={name: cells[name] for name in ROW_OPTIONS if name in cells},
    )


def _located(cells: Mapping[str, str], where: str, folder: str) -> Entry:
    """Return an entry with its model and clean set."""
    model, data, sha256 = (cells.get(name) for name in ("model", "data", "sha256"))
    sha256 = sha256 and sha256.lower()
    if sha256 and not DIGEST.fullmatch(sha256):
        raise FleetError(f"{where}: sha256 is not 64 hexadecimal digits", "Mend the row.")
    assert model is not None  # noqa: S101 - the caller has looked
    remote = _SCHEME.match(folder) is not None
    if data and (remote or _SCHEME.match(data)) and not Path(data).is_absolute():
        raise FleetError(
            f"{where}: its clean images are at an address, and only models are fetched",
            "Fetch them first, and give their path.",
        )
    if remote and not _SCHEME.match(model):
        model = f"{folder}/{quote(model)}"
    if not _SCHEME.match(model):
        if sha256:
            raise FleetError(f"{where}: sha256 is for models at addresses", "Leave it empty.")
        return Entry(Path(folder) / model, Path(folder) / data if data else None)
    try:
        return replace(_entry_at(model, sha256), data=Path(folder) / data if data else None)
    except SodaError as error:
        advice = error.advice.replace("`sha256`", "the column sha256")
        raise FleetError(f"{where}: {error.message}", advice) from error


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
