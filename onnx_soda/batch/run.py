"""Scans models one after the other, or several at once; an error ends one of them, not all.

Several at once are processes of this program, each of which starts the child that opens its model
(`onnx_soda.sandbox`). They end when this one is interrupted.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from onnx_soda.batch.cache import Cache
from onnx_soda.batch.request import Request
from onnx_soda.model.runtime_options import usable_cores
from onnx_soda.options import Progress, no_progress
from onnx_soda.report.outcomes import Outcome, failure_of
from onnx_soda.report.schema import ScanReport
from onnx_soda.sandbox.files import scan_file
from onnx_soda.sandbox.sources import as_onnx, with_origin

__all__ = ["Ended", "scan_many", "scan_one"]


@dataclass(frozen=True)
class Ended:
    """A scan that is over.

    Attributes:
        model: The path as given.
        outcome: What it came to.
        seconds: How long it took.
        cached: It was remembered, not made anew.
    """

    model: Path
    outcome: Outcome
    seconds: float
    cached: bool


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
        jobs: How many at once. They share the processor's cores.
        progress: Called as models are over, and with one at a time as each goes on.
    """
    requests = [replace(request, model=model) for model in models]
    if jobs <= 1 or len(models) == 1:
        for number, one in enumerate(requests):
            progress("models", number, len(requests))
            yield _attempt(one, cache)
        return
    threads = request.options.runtime.threads or max(usable_cores() // jobs, 1)
    runtime = replace(request.options.runtime, threads=threads)
    shared = [replace(one, options=replace(one.options, runtime=runtime)) for one in requests]
    yield from _at_once(shared, cache, jobs, progress)


def _attempt(request: Request, cache: Cache | None) -> Ended:
    begin = time.perf_counter()
    try:
        outcome: Outcome
        outcome, cached = scan_one(request, cache)
    except Exception as error:  # noqa: BLE001 - one model ends, not all; it is told
        outcome, cached = failure_of(request.model.name, error), False
    return Ended(request.model, outcome, time.perf_counter() - begin, cached)


def _at_once(
    requests: Sequence[Request], cache: Cache | None, jobs: int, progress: Progress
) -> Iterator[Ended]:
    fresh = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(requests)), fresh, _end_quietly)
    try:
        waiting = [pool.submit(_attempt, request, cache) for request in requests]
        for number, done in enumerate(as_completed(waiting)):
            progress("models", number + 1, len(requests))
            yield done.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in psutil.Process().children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True)


def _end_quietly() -> None:
    """Leave interrupts to the process that started this one, which then ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)


def _stop(number: int, _: object) -> None:
    """End by the way that removes what is half done."""
    raise SystemExit(128 + number)
