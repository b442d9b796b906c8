"""Results of a fleet: one for each model and way of scanning it, kept in a file of SQLite.

The key of a result is a digest of the model, its clean set, all options and all versions
(`onnx_soda._cache`). A result is written whole or not at all, as the scan ends, by the process that
started it. So that process may be killed at any time: started again, it goes on where it stopped.
A model that was scanned is never scanned again under the same key; one that failed may be.

WAL lets others read while one writes (https://www.sqlite.org/wal.html). It needs a local disk: for
a shared folder give each machine its own shard, and put the shards together (`Store.merge`).
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import msgspec

from onnx_soda._baseline import identity
from onnx_soda._cache import Cache
from onnx_soda._errors import FleetError
from onnx_soda._fetch import shown
from onnx_soda._fleet.manifest import Asked, FleetRequest
from onnx_soda._report.formats import pair_text, worst_finding
from onnx_soda._report.json import to_json
from onnx_soda._results import Outcome, ScanFailure, ScanReport
from onnx_soda._rules import Severity
from onnx_soda._system import read_json

FILE = "fleet.sqlite"
# 2 keeps what was asked for of each model, and severity and digest of each result.
_VERSION = 2
_SECONDS = 30.0
_TABLES = """
CREATE TABLE IF NOT EXISTS models (
    place TEXT PRIMARY KEY, task TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, verdict TEXT NOT NULL, severity TEXT NOT NULL, rule TEXT NOT NULL,
    pair TEXT NOT NULL, passes INTEGER NOT NULL, sha256 TEXT NOT NULL, seconds REAL NOT NULL,
    attempts INTEGER NOT NULL, outcome BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_key ON models (key);
"""
_ADD = "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_KEEP = "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)"
FAILED = "failed"
"""Stands in for the verdict of a model that could not be scanned."""
_ORDER = ("backdoor", "unsafe", FAILED, "inconclusive", "clean")


@dataclass(frozen=True)
class Row:
    """A model of a fleet, and what became of it.

    Attributes:
        place: Path of the model.
        task: Of the manifest.
        key: Of its result.
        verdict: Of its scan; `FAILED`, or "" where it was not scanned yet.
        severity: Of the worst finding that is not accepted; "" where there is none.
        rule: Rule and severity of the worst finding, or why the scan failed.
        pair: Its classes.
        passes: Passes of images through the model.
        sha256: Identifies the model and its weights, as entries of a baseline do.
        seconds: How long the scan took.
        attempts: How often it was tried.
    """

    place: str
    task: str
    key: str
    verdict: str
    severity: Severity | Literal[""] = ""
    rule: str = ""
    pair: str = ""
    passes: int = 0
    sha256: str = ""
    seconds: float = 0.0
    attempts: int = 0

    def judged(self, report: ScanReport) -> Row:
        """Return the row with what a report says whose findings are accepted, or some of them."""
        severity, rule, pair = _worst(report)
        return replace(self, severity=severity, rule=rule, pair=pair)


class Store:
    """The results of a fleet in a folder.

    Args:
        folder: Where; made where it is missing.
        made: It is to be there already.

    Raises:
        FleetError: There are none, or the file is something else.
    """

    def __init__(self, folder: Path, made: bool = False) -> None:
        self.file = folder / FILE
        if made and not self.file.is_file():
            raise FleetError(
                f"{folder.name} holds no results of a fleet", "Make some: `onnx-soda fleet scan`."
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open()
        except (OSError, sqlite3.Error) as error:
            raise FleetError(
                f"{self.file.name} cannot be opened: {error}", "Give another folder as --output."
            ) from error

    def _open(self) -> None:
        self._base = sqlite3.connect(self.file, timeout=_SECONDS)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        if version not in (0, _VERSION):
            raise FleetError(
                f"{self.file.name} is of another version of onnx-soda", "Give another folder."
            )
        self._base.executescript(_TABLES)
        self._base.execute(f"PRAGMA user_version={_VERSION}")

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._base.close()

    def register(self, asked: Iterable[tuple[Asked, str]]) -> None:
        """Keep which models are of the fleet, what is asked for of each, and its result's key."""
        with self._base:
            self._base.executemany(
                _KEEP,
                ((one.place, one.task, key, _kept(one.request)) for one, key in asked),
            )

    def asked(self, places: Iterable[str]) -> tuple[Asked, ...]:
        """Return what was asked for of some models.

        Raises:
            FleetError: It was changed, and cannot be read any more.
        """
        wanted = set(places)
        found = self._base.execute("SELECT place, task, request FROM models ORDER BY place")
        try:
            return tuple(
                Asked(place, task, read_json(request, FleetRequest))
                for place, task, request in found
                if place in wanted
            )
        except (msgspec.MsgspecError, RecursionError, ValueError, TypeError) as error:
            raise FleetError(
                "what was asked for of a model is not known any more, or its address was secret",
                "Give the manifest again: `onnx-soda fleet scan --retry-failed`.",
            ) from error

    def done(self) -> Mapping[str, str]:
        """Return the verdict of each key that has a result."""
        return dict(self._base.execute("SELECT key, verdict FROM results"))

    def put(self, key: str, outcome: Outcome, seconds: float) -> None:
        """Keep what a scan came to; a failure gives way to what comes later, nothing else does."""
        facts = _facts(outcome)
        packed = zlib.compress(msgspec.json.format(to_json(outcome).encode(), indent=-1))
        with self._base:
            self._base.execute(
                "INSERT INTO results VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (key) "
                "DO UPDATE SET verdict=excluded.verdict, severity=excluded.severity, "
                "rule=excluded.rule, pair=excluded.pair, passes=excluded.passes, "
                "sha256=excluded.sha256, seconds=excluded.seconds, attempts=attempts + 1, "
                "outcome=excluded.outcome WHERE results.verdict=?",
                (key, *facts, seconds, packed, FAILED),
            )

    def rows(self) -> list[Row]:
        """Return all models, the worst first."""
        found = self._base.execute(
            "SELECT place, task, models.key, coalesce(verdict, ''), coalesce(severity, ''), "
            "coalesce(rule, ''), coalesce(pair, ''), coalesce(passes, 0), coalesce(sha256, ''), "
            "coalesce(seconds, 0), coalesce(attempts, 0) FROM models "
            "LEFT JOIN results ON models.key = results.key"
        )
        rank = {verdict: place for place, verdict in enumerate(_ORDER)}
        rows = [Row(*values) for values in found]
        return sorted(rows, key=lambda row: (rank.get(row.verdict, len(rank)), row.place))

    def outcome(self, key: str) -> Outcome | None:
        """Return what a scan came to; None where there is no result.

        Raises:
            FleetError: It was changed, and is no result any more.
        """
        found = self.outcome_as_json(key)
        return None if found is None else found[0]

    def outcome_as_json(self, key: str) -> tuple[Outcome, str] | None:
        """Return the same, and its JSON in one line; see `outcome`."""
        asked = "SELECT verdict, outcome FROM results WHERE key=?"
        found = self._base.execute(asked, (key,)).fetchone()
        if found is None:
            return None
        verdict, packed = found
        kind = ScanFailure if verdict == FAILED else ScanReport
        try:
            text = zlib.decompress(packed)
            return read_json(text, kind), text.decode()
        except (ValueError, RecursionError, zlib.error, TypeError) as error:
            raise FleetError(
                f"{self.file.name} holds something that is no result", "Scan the model again."
            ) from error

    def merge(self, folder: Path) -> int:
        """Take over the results of another folder that are missing or failed here.

        Returns:
            Number of models that the other has.

        Raises:
            FleetError: There are none.
        """
        with Store(folder, made=True) as other:
            models = other._base.execute("SELECT * FROM models").fetchall()
            with self._base, closing(other._base.execute("SELECT * FROM results")) as results:
                self._base.executemany(_KEEP, models)
                for row in results:
                    failed = (row[0], FAILED)
                    self._base.execute("DELETE FROM results WHERE key=? AND verdict=?", failed)
                    self._base.execute(_ADD, row)
        return len(models)


def _kept(request: FleetRequest) -> bytes:
    """Return a request as it is kept: not at all where its address may hold a secret."""
    if request.source is not None and request.source.secret:
        return b""
    return msgspec.json.encode(request, enc_hook=str)


def _facts(outcome: Outcome) -> tuple[Any, ...]:
    """Return verdict, severity, rule, pair, passes and digest."""
    if isinstance(outcome, ScanFailure):
        return FAILED, "", outcome.rule_id or outcome.message, "", 0, ""
    return outcome.verdict, *_worst(outcome), outcome.coverage.passes, identity(outcome)


def _worst(report: ScanReport) -> tuple[Severity | Literal[""], str, str]:
    """Return severity, rule and pair of the worst finding; accepted ones have no severity."""
    worst = worst_finding(report)
    if worst is None:
        return "", "", ""
    accepted = worst.accepted is not None
    rule = f"{worst.rule_id} {'accepted' if accepted else worst.severity}"
    return "" if accepted else worst.severity, rule, pair_text(report, worst)


def key_of(request: FleetRequest) -> str:
    """Return the key of a scan's result; what has an address is pinned before.

    Of what is not read whole for it (a folder of TensorFlow, very large files) size and time of the
    last change stand for the content.
    """
    source = request.source
    facts = None if source is None else repr((shown(source.url), source.facts))
    key = Cache(Path()).key_of(request, facts)
    if key is not None:
        return key
    parts: list[Any] = [request.options, facts]
    for path in filter(None, (request.model, request.data)):
        try:
            fact = path.stat()
            parts.append((str(path.absolute()), fact.st_size, fact.st_mtime_ns))
        except OSError:
            parts.append((str(path.absolute()), "missing"))
    return hashlib.sha256(repr(parts).encode()).hexdigest()
