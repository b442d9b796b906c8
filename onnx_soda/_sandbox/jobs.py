"""What a child process can be asked to do, and what it answers; plain data, no runtime."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnx_soda._answers import (
    Conversion,
    FileLook,
    ModelDifference,
    ModelSummary,
    RepairAnswer,
    TwinsAnswer,
)
from onnx_soda._data.forms import files_beside
from onnx_soda._options import (
    ConvertOptions,
    DataOptions,
    ReferenceFlows,
    RepairOptions,
    ScanOptions,
    SplitName,
    TwinOptions,
)
from onnx_soda._results import ScanReport


@dataclass(frozen=True)
class ScanJob:
    """A scan; answered by a `ScanReport`.

    Attributes:
        model: Absolute path of the model.
        data: The same of the clean set; None without one.
        split: Part of it, see `load_dataset`.
        options: See `scan`.
        references: What other models of the same classes make of the bank.
    """

    model: str
    data: str | None = None
    split: SplitName = "auto"
    options: ScanOptions = field(default_factory=ScanOptions)
    references: tuple[ReferenceFlows, ...] = ()


@dataclass(frozen=True)
class ReferenceJob:
    """A question to a reference model; answered by `ReferenceFlows`.

    A child of its own does it: a reference that takes its child over can lie about itself, and not
    about the suspect.

    Attributes:
        model: Absolute path of the reference.
        data: The same of the clean set.
        split: Part of it.
        options: Those of the scan, see `hear`.
    """

    model: str
    data: str
    split: SplitName = "auto"
    options: ScanOptions = field(default_factory=ScanOptions)


@dataclass(frozen=True)
class InspectJob:
    """A look into a file; answered by a `ModelSummary`."""

    model: str
    logits: str | None = None


@dataclass(frozen=True)
class DiffJob:
    """A comparison of two files; answered by a `ModelDifference`."""

    model: str
    other: str


@dataclass(frozen=True)
class RepairJob:
    """A repair; answered by a `RepairAnswer`.

    Attributes:
        model: Absolute path of the model.
        data: The same of the clean set.
        output: File to write the repaired model to, if it comes to one; its weights go beside it
            where the model's own are outside.
        place: Where that file will be put when all is checked; the name is the same.
        pair: Victim and target class; None where a report or a scan has to tell them.
        report: Path of a JSON report of a scan.
        triggers: Path of real trigger images.
        split: Part of the clean set.
        options: See `repair`.
        references: What other models of the same classes make of the bank, for the scans.
    """

    model: str
    data: str
    output: str
    place: str
    pair: tuple[int, int] | None = None
    report: str | None = None
    triggers: str | None = None
    split: SplitName = "auto"
    options: RepairOptions = field(default_factory=RepairOptions)
    references: tuple[ReferenceFlows, ...] = ()


@dataclass(frozen=True)
class ConvertJob:
    """A conversion to ONNX; answered by a `ConvertAnswer`.

    Attributes:
        model: Absolute path of the source.
        output: File to write the result to.
        options: See `ConvertOptions`.
    """

    model: str
    output: str
    options: ConvertOptions = field(default_factory=ConvertOptions)


@dataclass(frozen=True)
class ConvertAnswer:
    """What a conversion came to.

    Attributes:
        conversion: See `Conversion`.
    """

    conversion: Conversion


@dataclass(frozen=True)
class TwinsJob:
    """A look at a folder for twins, or the training of one; answered by a `TwinsAnswer`.

    A child trains one twin. So each is put in place when it is done, and an interrupted training
    goes on where it was.

    Attributes:
        data: Absolute path of the clean set.
        folder: The same of the folder that twins go to; it may be missing yet.
        split: Part of the clean set.
        options: See `TwinOptions`.
        number: Which twin to train, from 1; 0 to look which ones are there.
        output: File to write the twin to, if it is sound.
    """

    data: str
    folder: str
    split: SplitName = "auto"
    options: TwinOptions = field(default_factory=TwinOptions)
    number: int = 0
    output: str = ""


@dataclass(frozen=True)
class CheckJob:
    """A look at files of any kind, nothing of which is run; answered by a `CheckAnswer`."""

    files: tuple[str, ...]


@dataclass(frozen=True)
class CheckAnswer:
    """What a look at files came to.

    Attributes:
        looks: Of each file, in order.
    """

    looks: tuple[FileLook, ...]


Job = ScanJob | ReferenceJob | InspectJob | DiffJob | RepairJob | ConvertJob | TwinsJob | CheckJob

KINDS: dict[str, tuple[type[Any], type[Any]]] = {
    "scan": (ScanJob, ScanReport),
    "reference": (ReferenceJob, ReferenceFlows),
    "inspect": (InspectJob, ModelSummary),
    "diff": (DiffJob, ModelDifference),
    "repair": (RepairJob, RepairAnswer),
    "convert": (ConvertJob, ConvertAnswer),
    "twins": (TwinsJob, TwinsAnswer),
    "check": (CheckJob, CheckAnswer),
}
"""By name: the job and its answer."""


def models(job: Job) -> tuple[str, ...]:
    """Return the paths of the models of a job."""
    if isinstance(job, TwinsJob | CheckJob):
        return ()
    return (job.model, job.other) if isinstance(job, DiffJob) else (job.model,)


def inputs(job: Job) -> Iterator[Path]:
    """Yield the paths that a job reads; of models, all that may lie beside them belongs to it."""
    for model in models(job):
        path = Path(model)
        if isinstance(job, ConvertJob):
            # Other frameworks' files stand alone.
            yield path
            continue
        # Where the name is a link, as in a Hugging Face cache, weights lie beside what it names.
        yield path.parent
        yield path.resolve().parent
    if isinstance(job, CheckJob):
        # Weights may lie beside an ONNX file, as beside a model.
        yield from dict.fromkeys(Path(name).parent for name in job.files)
        yield from dict.fromkeys(Path(name).resolve().parent for name in job.files)
    for path in _named(job):
        yield path
        yield path.resolve()


def _named(job: Job) -> Iterator[Path]:
    """Yield the files and folders that a job names beside its models, as far as they are there."""
    for name in ("data", "report", "triggers"):
        given = getattr(job, name, None)
        if given is not None:
            path = Path(given)
            yield path
            if name != "report" and not path.is_dir():
                yield from files_beside(path)
    if isinstance(job, TwinsJob):
        yield Path(job.folder)
    options = job.options if isinstance(job, ScanJob | ReferenceJob | TwinsJob) else None
    options = job.options.scan if isinstance(job, RepairJob) else options
    if options is not None:
        yield from _named_in(options)


def _named_in(options: ScanOptions | TwinOptions) -> Iterator[Path]:
    """Yield the files and folders that options name."""
    preprocess = options.preprocess if isinstance(options, ScanOptions) else None
    for given in (options.data.labels, options.data.data_root, preprocess):
        if given is not None and Path(given).is_absolute():
            yield Path(given)


def with_whole_paths(options: ScanOptions) -> ScanOptions:
    """Return options that name files and folders by their whole paths.

    A preprocessing without dot or folder in its name is a preset, and stays.
    """
    spec, data = options.preprocess, with_whole_data_paths(options.data)
    if spec is None or (Path(spec).name == spec and "." not in spec) or not Path(spec).is_file():
        return replace(options, data=data)
    return replace(options, preprocess=str(Path(spec).absolute()), data=data)


def with_whole_data_paths(data: DataOptions) -> DataOptions:
    """Return how a clean set is read, with whole paths."""
    labels, root = (one and str(Path(one).absolute()) for one in (data.labels, data.data_root))
    return replace(data, labels=labels, data_root=root)
