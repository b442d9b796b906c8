"""A comparison of two files."""

from __future__ import annotations

from onnx_soda.model.load import load_model
from onnx_soda.options import Progress
from onnx_soda.repair.difference import compare_models
from onnx_soda.repair.files import read_proto
from onnx_soda.report.repair_schema import ModelDifference
from onnx_soda.sandbox.jobs import DiffJob

__all__ = ["run"]


def run(job: DiffJob, _: Progress) -> ModelDifference:
    """See `onnx_soda.repair.difference.compare_models`."""
    first, second = (read_proto(load_model(path)) for path in (job.model, job.other))
    return compare_models(first, second)
