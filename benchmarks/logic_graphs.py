"""Exports networks and keeps their graphs without the large weights.

Graph logic is looked for in the graph and in its small constants; what the large weights hold
does not matter. Without them a graph takes kilobytes, so all of them can be kept and examined anew
whenever the analysis changes, without exporting anything again.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import onnx

from benchmarks.common import GRAPH_LOGIC
from benchmarks.exported import Record, run_job
from benchmarks.finder_jobs import Job, Made

__all__ = ["keep_graphs"]

_JOB_SECONDS = 300
# Larger tensors are weights, not constants of a decision.
_KEPT_ELEMENTS = 65_536


def keep_graphs(jobs: Sequence[Job], minutes: float) -> list[tuple[Record, Path]]:
    """Export what is not kept yet, as long as there is time.

    Returns:
        What is known of each job, and where its graph lies if there is one.
    """
    GRAPH_LOGIC.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * minutes
    found = []
    for job in jobs:
        graph = GRAPH_LOGIC / (re.sub(r"\W+", "-", job.key) + ".onnx")
        known = graph.with_suffix(".json")
        if not known.is_file() and time.monotonic() < deadline:
            record = run_job(job, partial(_keep, graph), _JOB_SECONDS)
            known.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(f"{job.key}: {record['export']} ({record['seconds']} s)", file=sys.stderr)
        if known.is_file():
            found.append((json.loads(known.read_text(encoding="utf-8")), graph))
        else:
            found.append(({"job": asdict(job), "export": "skipped: out of time"}, graph))
    return found


def _keep(graph: Path, path: Path, _made: Made) -> Record:
    """Save a graph whose large weights point into a file that is one hole.

    A hole takes no room on the disk. Each graph has its own, no longer than need be, since whoever
    reads the model makes a digest of all of it: it holds the longest weight, and a quarter of all
    of them, so that the preflight's limit on bytes that are read several times is kept.
    """
    model = onnx.load(path)
    hole = graph.with_suffix(".bin")
    longest = total = 0
    for tensor in model.graph.initializer:
        size = len(tensor.raw_data)
        if size > 4 * _KEPT_ELEMENTS:
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", hole.name), ("offset", "0"), ("length", str(size))):
                tensor.external_data.add(key=key, value=value)
            longest, total = max(longest, size), total + size
    with hole.open("wb") as file:
        file.truncate(max(longest, total // 4))
    onnx.save(model, graph)
    return {"failures": [], "nodes": len(model.graph.node)}
