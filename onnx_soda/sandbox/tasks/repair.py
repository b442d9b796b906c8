"""A repair, from the paths of model and clean set to a repaired file."""

from __future__ import annotations

from pathlib import Path

from onnx_soda.data.datasets import load_dataset
from onnx_soda.errors import RepairError
from onnx_soda.model.anatomy import dissect
from onnx_soda.model.load import OnnxModel, load_model
from onnx_soda.options import Progress
from onnx_soda.repair.files import check_target, write_model
from onnx_soda.repair.repair import repair
from onnx_soda.report.repair_document import NamedPair, pair_in_report
from onnx_soda.sandbox.jobs import RepairAnswer, RepairJob
from onnx_soda.scanner import describe_model

__all__ = ["run"]


def run(job: RepairJob, progress: Progress) -> RepairAnswer:
    """See `onnx_soda.repair.repair.repair`."""
    model = load_model(job.model)
    check_target(model, Path(job.place))
    named = NamedPair(job.pair, ()) if job.pair else _reported_pair(job, model)
    clean = load_dataset(job.data, job.split)
    triggers = load_dataset(job.triggers, "all") if job.triggers else None
    done = repair(
        model,
        clean,
        pair=named.pair if named else None,
        also=named.also if named else (),
        options=job.options,
        triggers=triggers,
        progress=progress,
    )
    if done.model is not None:
        write_model(done.model, model, Path(job.output))
    return RepairAnswer(
        done.summary,
        done.scan,
        describe_model(dissect(model)),
        clean.class_names,
        done.model is not None,
    )


def _reported_pair(job: RepairJob, model: OnnxModel) -> NamedPair | None:
    """Return the pair that the report given names; None where none is given."""
    if job.report is None:
        return None
    report = Path(job.report)
    named = pair_in_report(report, model.sha256)
    if named is None:
        raise RepairError(
            f"{report.name} names no pair of classes", "Name them by --victim and --target."
        )
    return named
