"""A look into a file."""

from __future__ import annotations

from onnx_soda.model.load import load_model
from onnx_soda.options import Progress
from onnx_soda.report.summary_schema import ModelSummary
from onnx_soda.sandbox.jobs import InspectJob
from onnx_soda.summary import summarise

__all__ = ["run"]


def run(job: InspectJob, _: Progress) -> ModelSummary:
    """See `onnx_soda.summary.summarise`."""
    return summarise(load_model(job.model), job.logits)
