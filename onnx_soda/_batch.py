"""Many models: which ones are meant, and their scans, one after the other or several at once.

Scans models one after the other, or several at once; an error ends one of them, not all.

Several at once are threads that wait for the children which open the models (`onnx_soda._sandbox`).
"""

from __future__ import annotations

import glob
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from onnx_soda._api import ask_reference, check_files, scan_file
from onnx_soda._cache import Cache, digest_of_refused
from onnx_soda._errors import DatasetFileError, ModelFileError, SodaError
from onnx_soda._options import (
    Limits,
    Progress,
    ReferenceFlows,
    ScanRequest,
    no_progress,
    usable_cores,
)
from onnx_soda._results import (
    NO_SANDBOX,
    Finding,
    Outcome,
    SandboxInfo,
    ScanFailure,
    ScanReport,
    failure_of,
    report_of_file,
)
from onnx_soda._rules import RULE_CODE, RULES
from onnx_soda._sandbox.process import end_children
from onnx_soda._words import as_url, not_fetched

ENDINGS = frozenset({".onnx", ".pt2", ".pt", ".pth", ".keras", ".safetensors", ".skops", ".tflite"})
"""Files that are taken for models in folders. `.h5` and `.npz` are mostly images, and `.bin` and
`.data` mostly weights of a model beside them; named by themselves they are taken too."""
_LIST, _COMMENT = "@", "#"
_SAVED_MODEL = "saved_model.pb"
_LARGEST_LIST = 2**24


def is_single(arguments: Iterable[str]) -> bool:
    """Tell whether one model is meant by its own path, so that it is reported by itself."""
    first, *others = arguments
    if others or first.startswith(_LIST):
        return False
    if not _exists(first):
        return as_url(first) is not None or not glob.has_magic(first)
    return not _is_plain_folder(Path(first))


def find_models(arguments: Iterable[str]) -> list[Path]:
    """Return the models that are meant, each once, in the order of the arguments.

    Args:
        arguments: Paths of files; folders, which are searched with all below them; patterns as
            `glob` has them; or lists: "@FILE" with one path per line, relative to the list. Empty
            lines and those that begin with "#" are passed over.

    Raises:
        ModelFileError: A list cannot be read, a pattern matches nothing, or there is no model.
    """
    found: dict[Path, Path] = {}
    for argument in arguments:
        paths = list(_expand(argument))
        if not paths:
            raise _nothing_found(argument)
        for path in paths:
            found.setdefault(_real(path), path)
    return list(found.values())


def _nothing_found(argument: str) -> ModelFileError:
    endings = f"In folders, models end in {', '.join(sorted(ENDINGS))}."
    if argument.startswith(_LIST) and not _exists(argument):
        return ModelFileError(
            f"the list {Path(argument[1:]).name} names no model",
            "Write one path per line; lines that begin with # are comments.",
        )
    if not _exists(argument) and not glob.glob(argument, recursive=True):  # noqa: PTH207
        return ModelFileError(
            f"no file matches {argument}", "Check the pattern, or name a folder of models."
        )
    return ModelFileError(f"{Path(argument).name} holds no model", endings)


def _real(path: Path) -> Path:
    """Return where a path leads; the path itself where that cannot be told."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # a link to itself, a name that is too long
        return path


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def find_files(arguments: Iterable[str]) -> list[Path]:
    """Return all files that are meant, of whatever kind; see `find_models`."""
    found: dict[Path, Path] = {}
    for argument in arguments:
        for path in _expand(argument, _all_below, Path.is_dir):
            found.setdefault(_real(path), path)
    return list(found.values())


def left_out(arguments: Iterable[str], ended: Iterable[Ended]) -> tuple[str, ...]:
    """Return the files in the folders that are meant which no scan looked at.

    Args:
        arguments: As for `find_models`.
        ended: The scans; weights beside a model belong to it.
    """
    read: set[Path] = set()
    for one in ended:
        read.add(_real(one.model))
        if isinstance(one.outcome, ScanReport):
            outside = one.outcome.model.external_data
            read.update(_real(one.model.parent / weights.file) for weights in outside)
    inside = [one for one in read if one.is_dir()]  # a SavedModel
    return tuple(
        str(path)
        for path in find_files(arguments)
        if (real := _real(path)) not in read
        and not any(real.is_relative_to(folder) for folder in inside)
    )


def _expand(
    argument: str,
    below: Callable[[Path], Iterator[Path]] | None = None,
    is_folder: Callable[[Path], bool] | None = None,
) -> Iterator[Path]:
    """Yield the paths that an argument means.

    Args:
        argument: See `find_models`.
        below: Yields what is meant in a folder; the models where not given.
        is_folder: Tells whether a path is a folder to be searched; a SavedModel is none where not
            given.
    """
    below, is_folder = below or _below, is_folder or _is_plain_folder
    path = Path(argument)
    if (url := as_url(argument)) and not _exists(argument):
        raise ModelFileError(*not_fetched(url))
    if argument.startswith(_LIST) and not _exists(argument):
        yield from _listed(Path(argument[1:]))
    elif _exists(argument) and is_folder(path):
        yield from below(path)
    elif _exists(argument) or not glob.has_magic(argument):
        yield path
    else:
        for match in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207 - as users write it
            place = Path(match)
            yield from below(place) if is_folder(place) else (place,)


def _all_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder in order; links to folders are not followed."""
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        for name in sorted(files):
            yield Path(place) / name


def _is_plain_folder(path: Path) -> bool:
    # os.path says no where a folder may not be entered; the search of it then says so.
    return path.is_dir() and not os.path.exists(path / _SAVED_MODEL)  # noqa: PTH110


def _below(folder: Path) -> Iterator[Path]:
    """Yield the models below a folder in order; links to folders are not followed."""
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders.sort()
        if _SAVED_MODEL in files:
            folders.clear()
            yield Path(place)
            continue
        for name in sorted(files):
            if Path(name).suffix.lower() in ENDINGS:
                yield Path(place) / name


def _refuse(error: OSError) -> None:
    """What cannot be searched may hold a model: never pass over it."""
    name = Path(str(error.filename)).name
    raise ModelFileError(
        f"the folder {name} cannot be searched: {error.strerror}",
        "Make it readable, or name the models.",
    ) from error


def _listed(file: Path) -> Iterator[Path]:
    try:
        if file.stat().st_size > _LARGEST_LIST:
            raise ModelFileError(f"{file.name} is too large for a list", "Give folders instead.")
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"the list {file.name} cannot be read: {error}", "Write one path per line, in UTF-8."
        ) from error
    for line in lines:
        if "\0" in line:
            raise ModelFileError(f"the list {file.name} is no text", "Write one path per line.")
        if line.strip() and not line.lstrip().startswith(_COMMENT):
            yield file.parent / line.strip()


# How often children that are to end are looked for: a thread may just be starting one.
_TICK = 0.05
# What is told of a model whose scan was not begun: message and advice.
_NOT_BEGUN = ("the run was interrupted before this model was scanned", "Scan it again.")


@dataclass(frozen=True)
class Ended:
    """A scan that is over.

    Attributes:
        model: The path as given.
        outcome: What it came to.
        seconds: How long it took.
        cached: It was remembered, not made anew.
        error: Why it failed.
        number: Its place among those that were asked for, from 0.
    """

    model: Path
    outcome: Outcome
    seconds: float
    cached: bool
    error: Exception | None = None
    number: int = 0


def scan_one(
    request: ScanRequest, cache: Cache | None = None, progress: Progress = no_progress
) -> tuple[ScanReport, bool]:
    """Scan a model, or return what is remembered of an earlier scan.

    Args:
        request: What to scan, and how.
        cache: Where scans are remembered; None for nowhere.
        progress: Called as it goes on.

    Returns:
        The report, and whether it was remembered. Of a file that is refused as unsafe the report
        says so.

    Raises:
        SodaError: See `scan_file`.
    """
    key = cache.key_of(request) if cache else None
    if cache and key and (known := cache.load(key)):
        return known, True
    begin = time.perf_counter()
    try:
        report = scan_file(
            request.model,
            request.data,
            request.split,
            request.options,
            convert=request.convert,
            limits=request.limits,
            progress=progress,
            references=request.references,
        )
    except SodaError as error:
        if not error.unsafe:
            raise
        return refusal(request.model, error, request.limits, time.perf_counter() - begin), False
    # What was changed while it was scanned is not what the key stands for.
    if cache and key and cache.key_of(request) == key:
        cache.store(key, report)
    return report, False


Scan = Callable[[ScanRequest, Cache | None, Progress], tuple[ScanReport, bool]]
"""Scans a model, as `scan_one` does."""
_NOT_SCANNED = "The file was refused and not scanned: nothing is known about backdoors in it."
_NOT_TOLD = "what confined the child process is not told where a file is refused"


def refusal(
    model: Path, error: SodaError, limits: Limits | None, seconds: float = 0.0
) -> ScanReport:
    """Return the report on a file that is refused as unsafe.

    Args:
        model: The file, or folder.
        error: Why.
        limits: Of the child process that refused it; None where there was none.
        seconds: How long that took.
    """
    rule = RULES[error.rule_id or RULE_CODE]
    finding = Finding(
        rule.id, rule.severity, None, None, None, None, error.message, advice=error.advice
    )
    sandbox = NO_SANDBOX
    if limits is not None:
        held = (limits.memory, limits.seconds, (_NOT_TOLD,))
        sandbox = SandboxInfo(True, False, False, *held)
    reasons, sha256 = (error.message, _NOT_SCANNED), digest_of_refused(model)
    return report_of_file(
        model.name, sha256, "unsafe", reasons, (finding,), seconds, sandbox=sandbox
    )


def check_many(
    files: Sequence[Path], limits: Limits | None, progress: Progress = no_progress
) -> tuple[list[Ended], tuple[str, ...]]:
    """Look at files of any kind; see `check_files`.

    Returns:
        Those that were looked at or cannot be read, and the names of the others.
    """
    ended, skipped = [], []
    for path, look in zip(files, check_files(files, limits=limits, progress=progress), strict=True):
        outcome = look.report or look.failure
        if outcome is not None:
            seconds = look.report.timing["total"] if look.report else 0.0
            ended.append(Ended(path, outcome, seconds, False))
        else:
            skipped.append(f"{path} ({look.what})" if look.what else str(path))
    return ended, tuple(skipped)


def ask_one(
    request: ScanRequest, cache: Cache | None = None, progress: Progress = no_progress
) -> ReferenceFlows:
    """Ask a reference model what it makes of the bank, or return what it said earlier.

    Args:
        request: The reference as the model, and how the suspects are scanned. What that says of a
            suspect's preprocessing, layer and logits is left out.
        cache: Where answers are remembered; None for nowhere.
        progress: Called as it goes on.
    """
    data = request.data
    assert data is not None  # noqa: S101 - the caller has looked
    request = replace(request, options=request.options.for_references())
    key = cache.key_of(request) if cache else None
    if cache and key and (known := cache.load_flows(key)):
        return known
    flows = ask_reference(
        request.model,
        data,
        request.split,
        request.options,
        convert=request.convert,
        limits=request.limits,
        progress=progress,
    )
    if cache and key and cache.key_of(request) == key:
        cache.store_flows(key, flows)
    return flows


def ask_all(
    references: Sequence[str],
    request: ScanRequest,
    cache: Cache | None = None,
    progress: Progress = no_progress,
) -> tuple[ReferenceFlows, ...]:
    """Ask every reference once; see `ask_one`.

    Args:
        references: Files, folders, patterns and lists, as for `find_models`.
        request: As for `ask_one`, of any model.
        cache: The same.
        progress: The same.

    Raises:
        ModelFileError: A list cannot be read, or there is no model.
    """
    paths = find_models(references)
    return tuple(ask_one(replace(request, model=path), cache, progress) for path in paths)


def scan_many(
    models: Sequence[Path],
    request: ScanRequest,
    cache: Cache | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
    stopping: Callable[[], bool] = lambda: False,
    within: Callable[[str, str, int, int], None] = lambda *_: None,
) -> Iterator[Ended]:
    """Scan many models; yield each as it is over.

    Args:
        models: The models.
        request: How; its own model is not scanned.
        cache: As for `scan_one`.
        jobs: How many at once; one where no child opens the model. They share the cores.
        progress: Called at the start, and as each model is over.
        stopping: Tells whether no more models are to be begun.
        within: Called with a model's path as its scan goes on, and as `progress`; of several at
            once, in the threads that wait for them.

    Raises:
        DatasetFileError: The clean set cannot be read, so that no model can be scanned.
    """
    requests = [replace(request, model=model) for model in models]
    with closing(scan_requests(requests, cache, jobs, progress, stopping, within)) as scans:
        scanned = False
        for one in scans:
            # It says nothing about the model, and would be said of every other one.
            if isinstance(one.error, DatasetFileError) and not scanned:
                raise one.error
            scanned = scanned or isinstance(one.outcome, ScanReport)
            yield one


def scan_requests(
    requests: Sequence[ScanRequest],
    cache: Cache | None = None,
    jobs: int = 1,
    progress: Progress = no_progress,
    stopping: Callable[[], bool] = lambda: False,
    within: Callable[[str, str, int, int], None] = lambda *_: None,
    scan: Scan = scan_one,
) -> Generator[Ended, None, None]:
    """Scan many models, each in its own way; yield each as it is over, with its number.

    Args:
        requests: What to scan, and how.
        cache: As for `scan_many`, and so are the rest.
        jobs: How many at once; one where no child opens the models. They share the cores.
        progress: Called at the start, and as each model is over.
        stopping: Tells whether no more models are to be begun.
        within: Called with a model's path as its scan goes on, and as `progress`.
        scan: Scans one of them.
    """
    progress("models", 0, len(requests))
    if jobs <= 1 or len(requests) == 1 or any(one.limits is None for one in requests):
        for number, one in enumerate(requests):
            done = _attempt(number, one, cache, stopping, within, scan)
            progress("models", number + 1, len(requests))
            yield done
        return
    shared = [_sharing(one, jobs) for one in requests]
    yield from _at_once(shared, cache, jobs, progress, stopping, within, scan)


def _sharing(request: ScanRequest, jobs: int) -> ScanRequest:
    """Return a request that leaves cores for others."""
    runtime = request.options.runtime
    threads = runtime.threads or max(usable_cores() // jobs, 1)
    options = replace(request.options, runtime=replace(runtime, threads=threads))
    return replace(request, options=options)


def _attempt(
    number: int,
    request: ScanRequest,
    cache: Cache | None,
    stopping: Callable[[], bool],
    within: Callable[[str, str, int, int], None],
    scan: Scan,
) -> Ended:
    begin = time.perf_counter()
    outcome: Outcome
    if stopping():
        outcome = ScanFailure(request.model.name, *_NOT_BEGUN, None)
        return Ended(request.model, outcome, 0, False, number=number)
    cached, failure = False, None
    try:
        outcome, cached = scan(request, cache, partial(within, str(request.model)))
    except Exception as error:  # noqa: BLE001 - one model ends, not all; it is told
        outcome, failure = failure_of(request.model.name, error), error
    return Ended(request.model, outcome, time.perf_counter() - begin, cached, failure, number)


def _at_once(
    requests: Sequence[ScanRequest],
    cache: Cache | None,
    jobs: int,
    progress: Progress,
    stopping: Callable[[], bool],
    within: Callable[[str, str, int, int], None],
    scan: Scan,
) -> Iterator[Ended]:
    threads: set[int] = set()
    pool = ThreadPoolExecutor(jobs, initializer=lambda: threads.add(threading.get_ident()))
    waiting = [
        pool.submit(_attempt, number, request, cache, stopping, within, scan)
        for number, request in enumerate(requests)
    ]
    try:
        for count, done in enumerate(as_completed(waiting), 1):
            progress("models", count, len(requests))
            yield done.result()
    finally:
        # Where all is done there is nothing to end; else this is an interrupt, or nobody asks on.
        pool.shutdown(wait=False, cancel_futures=True)
        while any(future.running() for future in waiting):
            end_children(threads)
            time.sleep(_TICK)
        pool.shutdown(wait=True)
