"""Scans a fleet: what has no result yet, several models at once, and keeps each result at once.

Each model is scanned in a child process of its own (`onnx_soda._batch`), so that one that crashes,
hangs or wants too much memory costs itself alone. This process alone writes to the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from onnx_soda._batch import Ended, scan_requests
from onnx_soda._fleet.manifest import Asked
from onnx_soda._fleet.store import FAILED, Store, key_of
from onnx_soda._options import Progress, no_progress
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
    jobs: int = 1,
    again: bool = False,
    progress: Progress = no_progress,
    stopping: Callable[[], bool] = lambda: False,
    within: Callable[[str, str, int, int], None] = lambda *_: None,
) -> FleetRun:
    """Scan the models that have no result yet.

    Args:
        asked: The fleet, and how each model is scanned.
        store: Where results are kept.
        jobs: How many at once.
        again: Those that failed are tried again.
        progress: Called as models are read for their keys, and as scans end.
        stopping: Tells whether no more models are to be begun.
        within: Called with a model's path as its scan goes on, and as `progress`.
    """
    keys = _registered(asked, store, progress)
    done = store.done()
    waiting = {
        key: one.request
        for key, one in zip(keys, asked, strict=True)
        if key not in done or (again and done[key] == FAILED)
    }
    scanned = failed = 0
    todo = list(waiting)
    scans = scan_requests(
        [waiting[key] for key in todo], None, jobs, progress, stopping, within
    )  # fmt: skip
    with closing(scans):
        for ended in scans if todo else ():
            if not _ended(ended, stopping()):
                continue
            store.put(todo[ended.number], ended.outcome, ended.seconds)
            scanned += 1
            failed += not isinstance(ended.outcome, ScanReport)
    known = len(set(keys)) - len(todo)
    return FleetRun(len(asked), known, scanned, failed, len(todo) - scanned)


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
