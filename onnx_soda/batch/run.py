"""Scans models one after the other, or several at once; an error ends one of them, not all.

Several at once are threads that wait for the children which open the models (`onnx_soda.sandbox`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from onnx_soda.batch.cache import Cache
from onnx_soda.batch.request import Request
from onnx_soda.model.runtime_options import usable_cores
from onnx_soda.options import Progress, no_progress
from onnx_soda.report.outcomes import Outcome, failure_of
from onnx_soda.report.schema import ScanReport
from onnx_soda.sandbox.files import scan_file
from onnx_soda.sandbox.process import end_children
from onnx_soda.sandbox.sources import as_onnx, with_origin

__all__ = ["Ended", "scan_many", "scan_one"]

# How often children that are to end are looked for: a thread may just be starting one.
_TICK = 0.05


@dataclass(frozen=True)
class Ended:
    """A scan that is over.

    Attributes:
        model: The path as given.
        outcome: What it came to.
        seconds: How long it took.
        cached: It was remembered, not made anew.
        error: Why it failed.
    """

    model: Path
    outcome: Outcome
    seconds: float
    cached: bool
    error: Exception | None = None


def scan_one(
    request: Request, cache: Cache | None = None, progress: Progress = no_progress
) -> tuple[ScanReport, bool]:
    """Scan a model, or return what is remembered of an earlier scan.

    Args:
        request: What to scan, and how.
        cache: Where scans are remembered; None for nowhere.
        progress: Called as it goes on.

    Returns:
        The report, and whether it was remembered.

    Raises:
        SodaError: See `scan_file` and `as_onnx`.
    """
    key = cache.key_of(request) if cache else None
    if cache and key and (known := cache.load(key)):
        return known, True
    limits = request.limits
    with as_onnx(request.model, request.convert, limits, progress) as (path, origin):
        found = scan_file(
            path, request.data, request.split, request.options, limits=limits, progress=progress
        )
    report = with_origin(found, origin)
    # What was changed while it was scanned is not what the key stands for.
    if cache and key and cache.key_of(request) == key:
        cache.store(key, report)
    return report, False


def scan_many(
    models: Sequence[Path],
    request: Request,
    cache: Cache | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> Iterator[Ended]:
    """Scan many models; yield each as it is over.

    Args:
        models: The models.
        request: How; its own model is not scanned.
        cache: As for `scan_one`.
        jobs: How many at once; one where no child opens the model. They share the cores.
        progress: Called at the start, and as each model is over.
    """
    requests = [replace(request, model=model) for model in models]
    progress("models", 0, len(requests))
    if jobs <= 1 or len(models) == 1 or request.limits is None:
        for number, one in enumerate(requests, 1):
            done = _attempt(one, cache)
            progress("models", number, len(requests))
            yield done
        return
    threads = request.options.runtime.threads or max(usable_cores() // jobs, 1)
    runtime = replace(request.options.runtime, threads=threads)
    shared = [replace(one, options=replace(one.options, runtime=runtime)) for one in requests]
    yield from _at_once(shared, cache, jobs, progress)


def _attempt(request: Request, cache: Cache | None) -> Ended:
    begin = time.perf_counter()
    outcome: Outcome
    cached, failure = False, None
    try:
        outcome, cached = scan_one(request, cache)
    except Exception as error:  # noqa: BLE001 - one model ends, not all; it is told
        outcome, failure = failure_of(request.model.name, error), error
    return Ended(request.model, outcome, time.perf_counter() - begin, cached, failure)


def _at_once(
    requests: Sequence[Request], cache: Cache | None, jobs: int, progress: Progress
) -> Iterator[Ended]:
    threads: set[int] = set()
    pool = ThreadPoolExecutor(jobs, initializer=lambda: threads.add(threading.get_ident()))
    waiting = [pool.submit(_attempt, request, cache) for request in requests]
    try:
        for number, done in enumerate(as_completed(waiting)):
            progress("models", number + 1, len(requests))
            yield done.result()
    finally:
        # Where all is done there is nothing to end; else this is an interrupt, or nobody asks on.
        pool.shutdown(wait=False, cancel_futures=True)
        while any(future.running() for future in waiting):
            end_children(threads)
            time.sleep(_TICK)
        pool.shutdown(wait=True)
