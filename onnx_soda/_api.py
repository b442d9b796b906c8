"""Scans, repairs, converts and looks into files: what to call from outside.

A stranger's file is opened in a child process with limits. With `limits=None` the work is done in
the caller's own process, where nothing confines it.

Examples:
    >>> from onnx_soda import scan_file
    >>> report = scan_file("model.onnx", "clean.h5")  # doctest: +SKIP
    >>> report.environment.sandbox.active  # doctest: +SKIP
    True
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnx_soda._answers import (
    Conversion,
    FileLook,
    ModelDifference,
    ModelSummary,
    RepairAnswer,
    Twin,
    TwinsAnswer,
)
from onnx_soda._converters.protocol import may_be_source
from onnx_soda._data.forms import check_clean_set
from onnx_soda._errors import CrashError, OutputError, SandboxError, SodaError
from onnx_soda._options import (
    ConvertOptions,
    Limits,
    Progress,
    ReferenceFlows,
    RepairOptions,
    ScanOptions,
    SplitName,
    TwinOptions,
    no_progress,
)
from onnx_soda._preflight.file import check_regular
from onnx_soda._results import NO_SANDBOX, SandboxInfo, ScanReport, failure_of
from onnx_soda._sandbox.jobs import (
    CheckAnswer,
    CheckJob,
    ConvertAnswer,
    ConvertJob,
    DiffJob,
    InspectJob,
    Job,
    ReferenceJob,
    RepairJob,
    ScanJob,
    TwinsJob,
    models,
    with_whole_data_paths,
    with_whole_paths,
)
from onnx_soda._sandbox.parent import Done, run_job
from onnx_soda._sandbox.process import private_folder
from onnx_soda._system import folder_to_fill, held_back

_USUAL = Limits()


def scan_file(
    model: str | Path,
    data: str | Path | None = None,
    split: SplitName = "auto",
    options: ScanOptions | None = None,
    *,
    convert: ConvertOptions | None = None,
    limits: Limits | None = _USUAL,
    progress: Progress = no_progress,
    references: Sequence[str | Path | ReferenceFlows] = (),
) -> ScanReport:
    """Scan a model file, of ONNX or of another framework; see `scan`.

    Args:
        model: The model. Models in other formats are converted first.
        data: The clean set, see `load_dataset`.
        split: Part of it.
        options: See `ScanOptions`.
        convert: How models in other formats are converted.
        limits: What the child process may take; None does without a child.
        progress: Called as the scan goes on.
        references: Other models of the same classes, as files or as `ask_reference` returns them.
            They decide where the method is "auto", see `scan`.

    Raises:
        SodaError: The model cannot be scanned, the clean set does not fit, or the child failed.
    """
    clean = None if data is None else _absolute(data)
    asked = with_whole_paths(options or ScanOptions())
    if clean is not None:
        check_clean_set(clean, asked.data)
    others = _heard(references, clean, split, asked, convert, limits)
    with _as_onnx(Path(model), convert, limits, progress) as (path, origin):
        done = _do(ScanJob(_absolute(path), clean, split, asked, others), limits, progress)
    report: ScanReport = done.answer
    environment = replace(report.environment, sandbox=done.sandbox)
    return _with_origin(replace(report, environment=environment), origin)


def _heard(
    references: Sequence[str | Path | ReferenceFlows],
    clean: str | None,
    split: SplitName,
    options: ScanOptions,
    convert: ConvertOptions | None,
    limits: Limits | None,
) -> tuple[ReferenceFlows, ...]:
    """Ask the references that were not asked yet."""

    def heard(one: str | Path | ReferenceFlows) -> ReferenceFlows:
        if isinstance(one, ReferenceFlows):
            return one
        if clean is None:
            return ReferenceFlows(Path(one).name, problem="there are no clean images")
        return ask_reference(one, clean, split, options, convert=convert, limits=limits)

    return tuple(map(heard, references))


def ask_reference(
    model: str | Path,
    data: str | Path,
    split: SplitName = "auto",
    options: ScanOptions | None = None,
    *,
    convert: ConvertOptions | None = None,
    limits: Limits | None = _USUAL,
    progress: Progress = no_progress,
) -> ReferenceFlows:
    """Ask a reference model what it makes of the bank of concepts, once for many suspects.

    It is opened in a child process of its own, and need not be trusted. Where it cannot be used,
    the answer says why.

    Args:
        model: The reference. Models in other formats are converted first.
        data: The clean set of the scans.
        split: Part of it.
        options: Those of the scans. What they say of preprocessing, layer and logits is about the
            suspect, and left out.
        convert: How models in other formats are converted.
        limits: As for `scan_file`.
        progress: Called as it goes on.
    """
    try:
        with _as_onnx(Path(model), convert, limits, progress) as (path, _):
            asked = with_whole_paths(options or ScanOptions())
            job = ReferenceJob(_absolute(path), _absolute(data), split, asked)
            flows: ReferenceFlows = _do(job, limits, progress).answer
    except SodaError as error:
        return ReferenceFlows(Path(model).name, problem=error.message)
    return flows


def inspect_file(
    model: str | Path,
    logits: str | None = None,
    *,
    convert: ConvertOptions | None = None,
    limits: Limits | None = _USUAL,
) -> ModelSummary:
    """Tell what is in a model file; the model is not run.

    Args:
        model: The model. Models in other formats are converted first.
        logits: Name of the tensor to take as logits; found where not given.
        convert: How models in other formats are converted.
        limits: As for `scan_file`.

    Raises:
        SodaError: The file cannot be read, or the child failed.
    """
    with _as_onnx(Path(model), convert, limits, no_progress) as (path, origin):
        summary: ModelSummary = _do(InspectJob(_absolute(path), logits), limits).answer
    return replace(summary, notes=(*summary.notes, *_origin_notes(origin)))


def check_files(
    files: Sequence[str | Path],
    *,
    limits: Limits | None = _USUAL,
    progress: Progress = no_progress,
) -> tuple[FileLook, ...]:
    """Look at model files of any framework, and run nothing: what in them is dangerous?

    One child process looks at all of them. If one file ends it, each gets a child of its own.
    This does not look for backdoors.

    Args:
        files: The files.
        limits: What the child process may take; None does without a child.
        progress: Called as it goes on.

    Returns:
        What each file comes to, in order. Nothing is raised for a file: what cannot be read has a
        failure, and what is of no known kind is skipped.

    Raises:
        SandboxError: There can be no child process.
    """
    job = CheckJob(tuple(map(_absolute, files)))
    try:
        done = _do(job, limits, progress)
    except SandboxError as error:
        if len(job.files) > 1:
            return tuple(look for one in files for look in check_files([one], limits=limits))
        return (FileLook(failure=failure_of(Path(files[0]).name, error)),)
    answer: CheckAnswer = done.answer
    if len(answer.looks) != len(job.files):
        raise CrashError("the child process did not tell of every file")
    return tuple(_held(look, done.sandbox) for look in answer.looks)


def _held(look: FileLook, sandbox: SandboxInfo) -> FileLook:
    """Return a look whose report says what confined the child."""
    if look.report is None:
        return look
    environment = replace(look.report.environment, sandbox=sandbox)
    return replace(look, report=replace(look.report, environment=environment))


def diff_files(
    model: str | Path, other: str | Path, *, limits: Limits | None = _USUAL
) -> ModelDifference:
    """Tell which stored tensors of two model files differ.

    Args:
        model: A model.
        other: Another.
        limits: As for `scan_file`.

    Raises:
        SodaError: A file cannot be read, or the child failed.
    """
    difference: ModelDifference = _do(DiffJob(_absolute(model), _absolute(other)), limits).answer
    return difference


def repair_file(
    model: str | Path,
    data: str | Path,
    output: str | Path,
    *,
    pair: tuple[int, int] | None = None,
    report: str | Path | None = None,
    triggers: str | Path | None = None,
    split: SplitName = "auto",
    options: RepairOptions | None = None,
    convert: ConvertOptions | None = None,
    limits: Limits | None = _USUAL,
    progress: Progress = no_progress,
    references: Sequence[str | Path | ReferenceFlows] = (),
) -> RepairAnswer:
    """Repair a model file, and write the repaired model; see `repair`.

    The child writes into a folder of its own beside `output`; what it wrote is opened by a second
    child before it is put in place.

    Args:
        model: The model. Models in other formats are converted first.
        data: The clean set, see `load_dataset`.
        output: File to write; its weights go beside it where the model's own are outside.
        pair: Victim and target class; a report or a scan tells them otherwise.
        report: JSON report of a scan of this model.
        triggers: Real trigger images, to measure with only.
        split: Part of the clean set.
        options: See `RepairOptions`.
        convert: How models in other formats are converted.
        limits: As for `scan_file`.
        progress: Called as the repair goes on.
        references: Other models of the same classes, as for `scan_file`: for the scan that finds
            the pair, and for the new scan of what was repaired.

    Raises:
        SodaError: The model cannot be repaired, or a child failed.
    """
    place, options = Path(output), options or RepairOptions()
    scan = with_whole_paths(options.scan)
    check_clean_set(data, scan.data)
    job = RepairJob(
        model="",
        data=_absolute(data),
        output=str(place.absolute()),
        place=str(place.absolute()),
        pair=pair,
        report=None if report is None else _absolute(report),
        triggers=None if triggers is None else _absolute(triggers),
        split=split,
        options=replace(options, scan=scan),
        references=_heard(references, _absolute(data), split, scan, convert, limits),
    )
    with _as_onnx(Path(model), convert, limits, progress) as (path, _):
        return _repair(replace(job, model=_absolute(path)), limits, progress)


def _repair(job: RepairJob, limits: Limits | None, progress: Progress) -> RepairAnswer:
    if limits is None:
        direct: RepairAnswer = _do(job, None, progress).answer
        return direct
    check_regular(Path(job.model))
    place = Path(job.place)
    with _room_for(place) as made:
        done = run_job(replace(job, output=str(made)), limits, progress, made.parent)
        answer: RepairAnswer = done.answer
        if answer.written:
            _check(made, limits)
            _put(made, place.resolve())
    if answer.scan is not None:
        environment = replace(answer.scan.environment, sandbox=done.sandbox)
        answer = replace(answer, scan=replace(answer.scan, environment=environment))
    return answer


def convert_file(
    source: str | Path,
    output: str | Path,
    options: ConvertOptions | None = None,
    *,
    limits: Limits | None = _USUAL,
    progress: Progress = no_progress,
) -> Conversion:
    """Convert another framework's model file to ONNX.

    As for `repair_file`, what the child wrote is opened by a second child before it is put in
    place.

    Args:
        source: The model file.
        output: File to write.
        options: See `ConvertOptions`.
        limits: As for `scan_file`.
        progress: Called as the conversion goes on.

    Raises:
        ConvertError: The source is refused, cannot be converted, or the result computes something
            else.
        MissingExtraError: Its framework is not installed.
        SodaError: The result cannot be read or written, or a child failed.
    """
    place = Path(output)
    _check_source(Path(source), place)
    job = ConvertJob(_absolute(source), _absolute(output), options or ConvertOptions())
    with _room_for(place) as made:
        done = _do(replace(job, output=str(made)), limits, progress, made.parent)
        answer: ConvertAnswer = done.answer
        if limits is not None:
            _check(made, limits)
        _put(made, place.resolve())
    return answer.conversion


def make_twins(
    data: str | Path,
    output: str | Path,
    *,
    options: TwinOptions | None = None,
    split: SplitName = "auto",
    limits: Limits | None = _USUAL,
    progress: Progress = no_progress,
) -> TwinsAnswer:
    """Train small networks on the clean set alone, to give to `scan_file` as references.

    Each has a child of its own, and is put in place when it is done. One that is there already is
    kept; one that is too weak is not written.

    Args:
        data: The clean set, see `load_dataset`.
        output: Folder for them; made where it is missing.
        options: See `TwinOptions`.
        split: Part of the clean set.
        limits: What all of it together may take; None does without children.
        progress: Called as it goes on.

    Raises:
        SodaError: No torch, images or a folder that will not do, or a child failed.
    """
    folder, asked, begin = Path(output), options or TwinOptions(), time.monotonic()
    asked = replace(asked, data=with_whole_data_paths(asked.data))
    job = TwinsJob(_absolute(data), _absolute(folder), split, asked)
    with folder_to_fill(folder, Path(data)):
        check_clean_set(data, asked.data)
        answer: TwinsAnswer = _do(job, limits, progress).answer
        twins = {twin.file: twin for twin in answer.twins}
        for number, name in enumerate(() if answer.problem else asked.files, 1):
            if name not in twins:
                left = limits and limits.after(time.monotonic() - begin)
                twins[name] = _twin(replace(job, number=number), folder / name, left, progress)
    done = tuple(twins[name] for name in asked.files if name in twins)
    return replace(answer, twins=done, seconds=time.monotonic() - begin)


def _twin(job: TwinsJob, place: Path, limits: Limits | None, progress: Progress) -> Twin:
    """Train one twin, and put it in place if it is sound."""
    with _room_for(place) as made:
        done = _do(replace(job, output=str(made)), limits, progress, made.parent)
        twin: Twin = replace(done.answer.twins[0], file=place.name)
        if not twin.sound:
            return twin
        if limits is not None:
            _check(made, limits)
        sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
        _put(made, place)
    return replace(twin, sha256=sha256)


def _check_source(source: Path, place: Path) -> None:
    """Refuse what is plain to see: a folder no converter reads, a result in its source's place."""
    if source.is_dir():
        from onnx_soda._converters.choose import choose

        choose(source)
    if place.resolve() == source.resolve():
        raise OutputError(f"{place.name} is the source itself", "Choose another name.")


@contextmanager
def _room_for(place: Path) -> Iterator[Path]:
    """Make a folder beside a place, for what will be put there; yield its path in that folder.

    Raises:
        OutputError: There can be none, or it cannot be put in place.
    """
    try:
        with private_folder(beside=place) as folder:
            yield folder / place.name
    except OSError as error:
        raise OutputError(
            f"{place.name} cannot be written: {error.strerror}", "Choose another place."
        ) from error


def _do(
    job: Job,
    limits: Limits | None,
    progress: Progress = no_progress,
    folder: Path | None = None,
) -> Done:
    # What is plain to see needs no child, which takes a second to start.
    # A folder that is converted was looked at by `_check_source`.
    for model in map(Path, models(job)):
        if not (isinstance(job, ConvertJob) and model.is_dir()):
            check_regular(model)
    if limits is not None:
        return run_job(job, limits, progress, folder)
    from onnx_soda._sandbox.tasks import load_task

    answer: Any = load_task(job)(job, progress)
    return Done(answer, NO_SANDBOX)


def _absolute(path: str | Path) -> str:
    return str(Path(path).absolute())


def _weights(model: Path) -> Path:
    return model.with_name(model.name + ".data")


def _check(model: Path, limits: Limits) -> None:
    """Make sure that what a child left is an ordinary model file, by another child."""
    for path in (model, _weights(model)):
        if path.is_symlink() or (path.exists() and not stat.S_ISREG(path.stat().st_mode)):
            raise CrashError(f"the child process wrote {path.name} as no ordinary file")
    summary: ModelSummary = run_job(InspectJob(str(model)), limits).answer
    with model.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != summary.sha256:
            raise CrashError(f"{model.name} changed while it was checked")


def _put(model: Path, place: Path) -> None:
    with held_back():
        if _weights(model).exists():
            _weights(model).replace(_weights(place))
        model.replace(place)


@contextmanager
def _as_onnx(
    model: Path,
    options: ConvertOptions | None,
    limits: Limits | None,
    progress: Progress,
) -> Iterator[tuple[Path, Conversion | None]]:
    """Yield an ONNX file for a model of any kind, and how it was made.

    The file has the source's name, by which reports call it; it is removed afterwards.

    Args:
        model: The model.
        options: See `ConvertOptions`.
        limits: What the child process may take that converts it; None does without a child.
        progress: Called as the conversion goes on.

    Raises:
        ConvertError: It is of another framework and cannot be converted.
        SodaError: See `convert_file`.
    """
    if not os.path.isdir(model):  # noqa: PTH112 - which says no of impossible names, too
        check_regular(model)
    if not may_be_source(model):
        yield model, None
        return
    with private_folder() as folder:
        made = folder / model.name
        conversion = convert_file(model, made, options, limits=limits, progress=progress)
        yield made, conversion


def _with_origin(report: ScanReport, conversion: Conversion | None) -> ScanReport:
    """Return a report that says what the model was converted from."""
    return replace(report, reasons=(*report.reasons, *_origin_notes(conversion)))


def _origin_notes(conversion: Conversion | None) -> tuple[str, ...]:
    """Say what a model was converted from; nothing where it was ONNX already."""
    if conversion is None:
        return ()
    note = (
        f"Converted to ONNX first, by the route {conversion.converter}: on random images the two "
        f"differ by {conversion.difference:.1e} of the largest score at most. The sha256 of the "
        f"file given is {conversion.sha256}; the model's is that of the ONNX file."
    )
    return (note, *conversion.notes)
