"""Exports networks and checks the files, each in a process of its own with a time limit."""

from __future__ import annotations

import json
import logging
import multiprocessing
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.finder_jobs import Job, Made, TooLargeError
from benchmarks.finder_others import make_keras, make_sklearn
from benchmarks.finder_torch import make_timm, make_torchvision

__all__ = ["Check", "Record", "run_job"]

# Imported once; every process starts with them.
_PRELOADED = ("torch", "torchvision", "onnxscript", "benchmarks.finder_checks")

Record = dict[str, Any]
# Looks at an exported file; returns what it found, with a sentence for each failure.
Check = Callable[[Path, Made], Record]

_MAKERS: dict[str, Callable[[Job, Path], Made]] = {
    "torchvision": make_torchvision,
    "timm": make_timm,
    "keras (torch backend)": make_keras,
    "scikit-learn": make_sklearn,
}


def _work(job: Job, check: Check, folder: str, result: str) -> None:
    """Export and check one network, in a child; write the record, in two steps."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    record: Record = {"job": asdict(job), "export": "time limit"}
    target = Path(result)
    target.write_text(json.dumps(record))
    path = Path(folder) / "network.onnx"
    try:
        made = _MAKERS[job.source](job, path)
    except TooLargeError as error:
        record["export"] = f"skipped: {error}"
    except Exception as error:  # noqa: BLE001 - exporters raise anything
        first_line = (str(error).strip() or "no message").splitlines()[0]
        record["export"] = f"{type(error).__name__}: {first_line}"[:200]
    else:
        record.update(export="ok", parameters=made.parameters, failures=["time limit"])
        target.write_text(json.dumps(record))
        record.update(check(path, made))
    target.write_text(json.dumps(record))


def run_job(job: Job, check: Check, seconds: float) -> Record:
    """Export a network, check the file and delete it.

    Args:
        job: The network and how to export it.
        check: A function of a module, for the child to import; what it raises ends the child.
        seconds: Time limit of both together.

    Returns:
        What `check` returned, and `job`, `export` ("ok", or why there is no file), `parameters`,
        `failures` and `seconds`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "record.json"
        process = context.Process(target=_work, args=(job, check, folder, str(result)))
        start = time.perf_counter()
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        text = result.read_text() if result.is_file() else ""
        record: Record = json.loads(text) if text else {"job": asdict(job), "export": "crashed"}
    return {**record, "seconds": round(time.perf_counter() - start, 1)}
