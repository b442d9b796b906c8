"""Does jobs, in whatever process it is called: here models are parsed and run.

What a job needs is imported when there is such a job: a look into a file does not wait for what a
scan needs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx_soda._answers import ModelDifference, ModelSummary, RepairAnswer, TwinsAnswer
from onnx_soda._errors import MissingExtraError, RepairError
from onnx_soda._options import DataOptions, Progress, ReferenceFlows, ScanOptions
from onnx_soda._results import ScanReport, named_pairs
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
)

if TYPE_CHECKING:
    from onnx_soda._model.load import OnnxModel

Task = Callable[[Any, Progress], Any]
"""Takes a job and what to call as it goes on; returns the answer of the job's kind."""


Interim = Callable[[ScanReport], None]
"""Takes what there is to report of a scan if it is ended from outside."""


def load_task(job: Job, interim: Interim | None = None) -> Task:
    """Import what a kind of job needs and return the function that does it.

    Args:
        job: The job.
        interim: Called as a scan goes on; None where nobody listens.

    Raises:
        MissingExtraError: It needs packages that are not installed.
        ConvertError: The source of a conversion is refused: that is seen without its framework.
    """
    if isinstance(job, ScanJob):
        return _load_scan(job, interim)
    return _LOADERS[type(job)](job)


def _load_scan(loaded: ScanJob, interim: Interim | None) -> Task:
    from onnx_soda._data.datasets import load_dataset
    from onnx_soda._model.load import load_model
    from onnx_soda._scan import load_detectors, no_interim, scan_suspect
    from onnx_soda._suspect import Suspect

    detectors = load_detectors(loaded.options.method, bool(loaded.references))
    if loaded.data is not None:
        _load_concepts()
        _load_slopes(loaded.options, any("torch" in one.needs for one in detectors))

    def run(job: ScanJob, progress: Progress) -> ScanReport:
        clean = load_dataset(job.data, job.split, job.options.data) if job.data else None
        model = load_model(job.model)
        suspect = Suspect(model, clean, job.options, progress, references=job.references)
        return scan_suspect(suspect, interim or no_interim)

    return run


def _load_reference(_: ReferenceJob) -> Task:
    from onnx_soda._data.datasets import load_dataset
    from onnx_soda._detect.references.flows import hear
    from onnx_soda._model.load import load_model

    def run(job: ReferenceJob, progress: Progress) -> ReferenceFlows:
        clean = load_dataset(job.data, job.split, job.options.data)
        return hear(load_model(job.model), clean, job.options, progress)

    return run


def _load_concepts() -> None:
    """Import what interventions on images need, before memory is limited."""
    import_module("onnx_soda._detect.concepts.evidence")


def _load_slopes(options: ScanOptions, needed: bool) -> None:
    """Import torch, before memory is limited, where a scan may need it and it is there."""
    from onnx_soda._bridge.bridge import require_torch

    if not needed and options.attribution != "first-order" and options.neurons != "places":
        return
    try:
        require_torch()
    except MissingExtraError:  # a scan that comes to need it says so
        return
    import_module("onnx_soda._bridge.attempts")


def _load_inspect(_: InspectJob) -> Task:
    from onnx_soda._model.load import load_model
    from onnx_soda._summary import summarise

    def run(job: InspectJob, _: Progress) -> ModelSummary:
        return summarise(load_model(job.model), job.logits)

    return run


def _load_diff(_: DiffJob) -> Task:
    from onnx_soda._model.load import load_model
    from onnx_soda._repair.files import compare_models, read_proto

    def run(job: DiffJob, _: Progress) -> ModelDifference:
        first, second = (read_proto(load_model(path)) for path in (job.model, job.other))
        return compare_models(first, second)

    return run


def _load_convert(job: ConvertJob) -> Task:
    """Look at the source, and import its framework if it may be opened.

    Before the process's memory is limited, since frameworks take gigabytes of addresses; what the
    look at the file takes is watched by the parent.
    """
    from onnx_soda._converters.choose import choose, require

    source = Path(job.model)
    converter = choose(source)
    converter.precheck(source)
    require(converter)
    converter.load()

    def run(job: ConvertJob, progress: Progress) -> ConvertAnswer:
        progress("conversion", 0, 1)
        conversion = converter.convert(source, Path(job.output), job.options)
        progress("conversion", 1, 1)
        return ConvertAnswer(conversion)

    return run


def _load_repair(loaded: RepairJob) -> Task:
    from onnx_soda._bridge.bridge import require_torch
    from onnx_soda._data.datasets import load_dataset
    from onnx_soda._model.anatomy import dissect
    from onnx_soda._model.load import load_model
    from onnx_soda._repair.base import REMOVERS
    from onnx_soda._repair.files import check_target, write_model
    from onnx_soda._repair.repair import repair
    from onnx_soda._scan import describe_model, load_detectors

    require_torch()
    load_detectors(loaded.options.scan.method, bool(loaded.references))
    import_module("onnx_soda._repair.work")  # which imports torch
    REMOVERS.load(loaded.options.method)
    _load_concepts()

    def run(job: RepairJob, progress: Progress) -> RepairAnswer:
        model = load_model(job.model)
        check_target(model, Path(job.place))
        report = _kept_report(job, model)
        read = job.options.scan.data
        clean = load_dataset(job.data, job.split, read)
        linked = DataOptions(data_root=read.data_root)
        triggers = load_dataset(job.triggers, "all", linked) if job.triggers else None
        done = repair(
            model,
            clean,
            report,
            pair=job.pair,
            options=job.options,
            triggers=triggers,
            progress=progress,
            references=job.references,
        )
        if done.model is not None:
            write_model(done.model, model, Path(job.output))
        return RepairAnswer(
            done.summary,
            None if report else done.scan,
            describe_model(dissect(model)),
            clean.class_names,
            done.model is not None,
        )

    return run


def _load_twins(loaded: TwinsJob) -> Task:
    from onnx_soda._data.datasets import load_dataset
    from onnx_soda._twins.material import Material
    from onnx_soda._twins.twins import Workshop, require_training

    require_training()
    if loaded.number:
        for name in ("_repair.training", "_twins.networks"):  # which import torch
            import_module(f"onnx_soda.{name}")

    def run(job: TwinsJob, progress: Progress) -> TwinsAnswer:
        clean = load_dataset(job.data, job.split, job.options.data)
        material = Material(clean, job.options.seed)
        shop = Workshop(material, job.split, job.options, progress)
        if job.number:
            return shop.train(job.number, Path(job.output))
        return shop.look(Path(job.folder))

    return run


def _kept_report(job: RepairJob, model: OnnxModel) -> ScanReport | None:
    """Return the report given, which must name a pair; None where none is, or a pair is given."""
    from onnx_soda._report.json import read_report

    if job.report is None or job.pair is not None:
        return None
    path = Path(job.report)
    report = read_report(path, model.sha256)
    if next(named_pairs(report), None) is None:
        raise RepairError(f"{path.name} names no pair of classes", "Name them as `pair`.")
    return report


def _load_check(_: CheckJob) -> Task:
    """Import what nearly every file needs; the rest comes with the kinds of files."""
    from onnx_soda._check.check import look_at

    def run(job: CheckJob, progress: Progress) -> CheckAnswer:
        looks = []
        for number, name in enumerate(job.files):
            progress("files", number, len(job.files))
            looks.append(look_at(Path(name)))
        return CheckAnswer(tuple(looks))

    return run


_LOADERS: dict[type[Any], Callable[[Any], Task]] = {
    ReferenceJob: _load_reference,
    InspectJob: _load_inspect,
    DiffJob: _load_diff,
    ConvertJob: _load_convert,
    RepairJob: _load_repair,
    TwinsJob: _load_twins,
    CheckJob: _load_check,
}
