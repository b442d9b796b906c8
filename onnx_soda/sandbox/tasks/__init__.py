"""Does jobs, in whatever process it is called: here models are parsed and run.

One file per kind of job, imported when there is such a job: a look into a file does not wait for
what a scan needs.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from onnx_soda.options import Progress
from onnx_soda.sandbox.jobs import KINDS, ConvertJob, Job, RepairJob

__all__ = ["Task", "load_task"]

Task = Callable[[Any, Progress], Any]
"""Takes a job and what to call as it goes on; returns the answer of the job's kind."""


def load_task(job: Job) -> Task:
    """Import what a kind of job needs and return the function that does it.

    Raises:
        MissingExtraError: It needs packages that are not installed.
        ConvertError: The source of a conversion is refused: that is seen without its framework.
    """
    kind = next(name for name, (asked, _) in KINDS.items() if isinstance(job, asked))
    task: Task = import_module(f"{__name__}.{kind}").run
    if isinstance(job, RepairJob):
        from onnx_soda.repair.bridge import require_torch

        require_torch()
    if isinstance(job, ConvertJob):
        from onnx_soda.sandbox.tasks.convert import load_framework

        load_framework(job)
    return task
