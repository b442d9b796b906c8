"""Scans a fleet: what has no result yet, several models at once, and keeps each result at once.

Each model is scanned in a child process of its own (`onnx_soda._batch`), so that one that crashes,
hangs or wants too much memory costs itself alone. This process alone writes to the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

from onnx_soda._batch import Ended
from onnx_soda._fleet.engines import Engine
from onnx_soda._fleet.manifest import Asked
from onnx_soda._fleet.store import FAILED, Store, key_of
from onnx_soda._options import NOTE, Progress, no_progress
from onnx_soda._results import ScanReport


@dataclass(frozen=True)
class FleetRun:
    """What a run did.

    Attributes:
        models: Models of the fleet.
        known: Those that had a result before.
        scanned: Those scanned now.
        failed: Those of these that could not be scanned.
        waiting: Those left, since the run was interrupted.
    """

    models: int
    known: int
    scanned: int
    failed: int
    waiting: int


def scan_fleet(
    asked: Sequence[Asked],
    store: Store,
    engine: Engine,
    again: bool = False,
    progress: Progress = no_progress,
    stopping: Callable[[], bool] = lambda: False,
    within: Callable[[str, str, int, int], None] = lambda *_: None,
) -> FleetRun:
    """Scan the models that have no result yet.

    Args:
        asked: The fleet, and how each model is scanned.
        store: Where results are kept.
        engine: Where they are scanned.
        again: Those that failed are tried again.
        progress: Called as models are read for their keys, and as scans end.
        stopping: Tells whether no more models are to be begun.
        within: Called with a model's path as its scan goes on, and as `progress`.
    """
    asked = _pinned(asked, progress)
    keys = _registered(asked, store, progress)
    done = store.done()
    waiting = {
        key: one.request
        for key, one in zip(keys, asked, strict=True)
        if key not in done or (again and done[key] == FAILED)
    }
    scanned = failed = 0
    todo = list(waiting)
    pace = _Pace(len(todo), progress)
    scans = engine.scan([waiting[key] for key in todo], stopping, within) if todo else _no_scans()
    with closing(scans):
        for ended in scans:
            if not _ended(ended, stopping()):
                continue
            store.put(todo[ended.number], ended.outcome, ended.seconds)
            scanned += 1
            failed += not isinstance(ended.outcome, ScanReport)
            pace.tell(scanned, failed)
    known = len(set(keys)) - len(todo)
    return FleetRun(len(asked), known, scanned, failed, len(todo) - scanned)


def _no_scans() -> Generator[Ended, None, None]:
    yield from ()


class _Pace:
    """Tells how far a run is, how fast it goes, and what failed.

    Args:
        total: Models to scan.
        progress: Where to tell it.
    """

    def __init__(self, total: int, progress: Progress) -> None:
        self._total = total
        self._progress = progress
        self._begin = time.monotonic()
        progress("models", 0, total)

    def tell(self, done: int, failed: int) -> None:
        """Tell it again.

        Args:
            done: Models scanned, or found impossible to scan.
            failed: Those of these that failed.
        """
        note = rate(done, time.monotonic() - self._begin)
        note += f", {failed} failed" if failed else ""
        self._progress(f"models{NOTE}{note}", done, self._total)


def rate(count: int, seconds: float) -> str:
    """Return how many there are in a time that people count in.

    >>> rate(30, 10), rate(3, 10), rate(1, 100)
    ('3.0 a second', '18 a minute', '36 an hour')
    """
    each = count / max(seconds, 1e-3)
    if each >= 1:
        return f"{each:.1f} a second"
    return f"{60 * each:.0f} a minute" if 60 * each >= 1 else f"{3600 * each:.0f} an hour"


# Stores answer in a tenth of a second or so, whether asked for one file or for several.
_ASKED_AT_ONCE = 16


def _pinned(asked: Sequence[Asked], progress: Progress) -> Sequence[Asked]:
    """Return the same with what lies at addresses now."""
    remote = [one for one in asked if one.request.source is not None]
    if not remote:
        return asked

    def pinned(one: Asked) -> Asked:
        source = one.request.source
        assert source is not None  # noqa: S101 - chosen so
        return replace(one, request=replace(one.request, source=source.pinned()))

    known = dict[str, Asked]()
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        for one in pool.map(pinned, remote):
            known[one.place] = one
            progress("addresses looked at", len(known), len(remote))
    return [known.get(one.place, one) for one in asked]


def _registered(asked: Sequence[Asked], store: Store, progress: Progress) -> list[str]:
    keys = []
    for number, one in enumerate(asked, 1):
        keys.append(key_of(one.request))
        progress("models read", number, len(asked))
    store.register(zip(asked, keys, strict=True))
    return keys


def _ended(ended: Ended, stopping: bool) -> bool:
    """Tell whether a scan came to an end by itself, and not because the run was interrupted."""
    if isinstance(ended.outcome, ScanReport):
        return ended.outcome.stopped != "interrupt"
    return not stopping
