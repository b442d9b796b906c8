"""Checks the bridge on networks as exporters write them: `python -m benchmarks.bridge_coverage`.

    python -m benchmarks.bridge_coverage [--only WORD] [--minutes N]

Needs torch, torchvision and onnxscript, and keras for keras.applications. Every classifier of
torchvision is exported by both exporters of torch at their default opsets, every one of
keras.applications on the torch backend, all untrained; and one small network per family of
operators (`fixtures.families`) is made at every opset from 11 on. Each runs in a process of its
own, on one thread, with a time limit. What came of it is kept in build/bridge, one JSON file per
network, so that an interrupted run goes on where it stopped. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from benchmarks.bridge_checks import TOLERANCE, check_bridge, check_file
from benchmarks.children import in_child
from benchmarks.common import BRIDGE, markdown_table
from benchmarks.exported import Record, run_job
from benchmarks.finder_jobs import PARAMETER_LIMIT, Job, list_bridge_jobs, require
from fixtures.families import FAMILIES, build_family
from onnx_soda._preflight.definitions import newest_opset

_NEEDED = ("torch", "torchvision", "onnx2torch", "onnxscript")
_JOB_SECONDS = 1200
_BUDGET_MINUTES = 120
_FAMILY_COLUMNS = ("family", "opsets", "networks", "passed", "largest difference", "causes")
_NETWORK_COLUMNS = (
    "network", "exporter", "opset", "nodes", "scope", "difference", "gradient at image", "at head",
    "weights (without)", "passed",
)  # fmt: skip


def _run_all(jobs: Sequence[Job], minutes: float) -> list[Record]:
    """Run what is not kept yet, as long as there is time."""
    deadline = time.monotonic() + 60 * minutes
    records = []
    for job in jobs:
        path = BRIDGE / (re.sub(r"\W+", "-", job.key) + ".json")
        if not path.is_file() and time.monotonic() < deadline:
            record = run_job(job, check_file, _JOB_SECONDS)
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(
                f"{job.key}: {_said(record)} ({record['seconds']} s)", file=sys.stderr, flush=True
            )
        if path.is_file():
            records.append(json.loads(path.read_text(encoding="utf-8")))
        else:
            records.append({"job": asdict(job), "export": "skipped: out of time"})
    return records


def _said(record: Record) -> str:
    if record["export"] != "ok":
        return str(record["export"])
    return "; ".join(record["failures"]) or f"{record['scope']}, {record['parity']:.1e}"


def _passed(record: Record) -> bool:
    return record["export"] == "ok" and not record["failures"]


def _origin(record: Record) -> str:
    return f"{record['job']['source']}, {record['job']['exporter']}"


def _summary(records: Sequence[Record]) -> Iterator[list[object]]:
    for origin in dict.fromkeys(map(_origin, records)):
        own = [record for record in records if _origin(record) == origin]
        skipped = [record for record in own if record["export"].startswith("skipped")]
        exported = [record for record in own if record["export"] == "ok"]
        passed = [record for record in exported if _passed(record)]
        worst = max((record["parity"] for record in passed), default=0)
        share = f"{100 * len(passed) / max(len(exported), 1):.0f} %"
        refused = len(own) - len(skipped) - len(exported)
        numbers = [len(own), len(skipped), refused, len(exported), len(passed)]
        yield [origin, *numbers, share, f"{worst:.1e}"]


def _rows(records: Sequence[Record]) -> Iterator[list[object]]:
    for record in records:
        if record["export"] == "ok":
            yield [
                record["job"]["name"],
                _origin(record),
                record.get("opset", ""),
                record.get("nodes", ""),
                record.get("scope", "none"),
                f"{record['parity']:.1e}" if "parity" in record else "",
                _yes(record.get("gradient_image")),
                _yes(record.get("gradient_head")),
                f"{record['parameters']} ({record['without_gradient']})"
                if "without_gradient" in record
                else "",
                "yes" if _passed(record) else "no",
            ]


def _yes(value: bool | None) -> str:
    return {True: "yes", False: "no", None: ""}[value]


def _problems(records: Sequence[Record]) -> Iterator[list[object]]:
    for record in records:
        if not _passed(record):
            yield [record["job"]["name"], _origin(record), _said(record).replace("|", "/")]


def _check_family(name: str) -> list[dict[str, Any]]:
    """Check the small network of a family at every opset, in a child."""
    images = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    opsets = range(FAMILIES[name].since, newest_opset() + 1)
    return [check_bridge(build_family(name, opset), images) for opset in opsets]


def _family_rows() -> Iterator[list[object]]:
    for name in FAMILIES:
        found, _ = in_child(_check_family, name)
        good = [record for record in found if not record["failures"]]
        worst = max((record["parity"] for record in good), default=0)
        causes = {failure for record in found for failure in record["failures"]}
        opsets = f"{found[0]['opset']} to {found[-1]['opset']}"
        yield [name, opsets, len(found), len(good), f"{worst:.1e}", "; ".join(sorted(causes))]


def _print_section(title: str, columns: Sequence[str], rows: Iterator[list[object]]) -> None:
    print(f"\n## {title}\n\n{markdown_table(columns, list(rows))}", flush=True)


def _report(records: Sequence[Record]) -> None:
    print(f"# Coverage of the bridge\n\nPasses: a difference of {TOLERANCE} at most.")
    print(f"Skipped: networks over {PARAMETER_LIMIT:,} parameters.")
    counts = ("networks", "skipped", "exporter failed", "exported", "passed", "share")
    _print_section("Summary", ("exporter", *counts, "largest difference"), _summary(records))
    _print_section("Not passed", ("network", "exporter", "cause"), _problems(records))
    _print_section("Families of operators", _FAMILY_COLUMNS, _family_rows())
    _print_section("Each network", _NETWORK_COLUMNS, _rows(records))


def main() -> None:
    """Run what has not been run, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=_BUDGET_MINUTES, help="time to spend")
    parser.add_argument("--only", default="", help="run the networks with this in their key")
    arguments = parser.parse_args()
    require(*_NEEDED)
    BRIDGE.mkdir(parents=True, exist_ok=True)
    jobs = [job for job in list_bridge_jobs() if arguments.only in job.key]
    _report(_run_all(jobs, arguments.minutes))


if __name__ == "__main__":
    main()
