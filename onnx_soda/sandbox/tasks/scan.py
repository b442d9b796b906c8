"""A scan, from the paths of model and clean set."""

from __future__ import annotations

from onnx_soda.data.datasets import load_dataset
from onnx_soda.model.load import load_model
from onnx_soda.options import Progress
from onnx_soda.report.schema import ScanReport
from onnx_soda.sandbox.jobs import ScanJob
from onnx_soda.scanner import scan

__all__ = ["run"]


def run(job: ScanJob, progress: Progress) -> ScanReport:
    """See `onnx_soda.scanner.scan`."""
    clean = load_dataset(job.data, job.split) if job.data else None
    return scan(load_model(job.model), clean, job.options, progress)
