"""Checks what is picked in networks as exporters really write them: `python -m benchmarks.finder`.

Needs torch, torchvision and onnxscript; timm, keras, skl2onnx where installed. Every network is
exported and checked in a process of its own, with a time limit, and its file deleted. Results are
kept in a file, so that an interrupted run goes on where it stopped. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.common import markdown_table
from benchmarks.exported import Record, run_job
from benchmarks.finder_checks import check
from benchmarks.finder_jobs import PARAMETER_LIMIT, Job, list_jobs, require

_NEEDED = ("torch", "torchvision", "onnxscript")
_JOB_SECONDS = 240
_BUDGET_MINUTES = 45


def _run_all(jobs: Sequence[Job], cache: Path, minutes: float) -> list[Record]:
    """Run what the cache does not hold yet, as long as there is time."""
    done: dict[str, Record] = json.loads(cache.read_text()) if cache.is_file() else {}
    deadline = time.monotonic() + 60 * minutes
    for job in jobs:
        if job.key in done:
            continue
        if time.monotonic() > deadline:
            break
        done[job.key] = run_job(job, check, _JOB_SECONDS)
        cache.write_text(json.dumps(done, indent=1))
        record = done[job.key]
        said = record.get("failures") or record["export"]
        print(f"{job.key}: {said} ({record['seconds']} s)", file=sys.stderr, flush=True)
    return [
        done.get(job.key) or {"job": asdict(job), "export": "skipped: out of time"} for job in jobs
    ]


def _passed(record: Record) -> bool:
    return record["export"] == "ok" and not record["failures"]


def _count_row(name: str, records: Sequence[Record]) -> list[object]:
    skipped = [record for record in records if record["export"].startswith("skipped")]
    exported = [record for record in records if record["export"] == "ok"]
    refused = len(records) - len(skipped) - len(exported)
    return [name, len(records), len(skipped), refused, len(exported), sum(map(_passed, exported))]


def _by_exporter(records: Sequence[Record]) -> Iterator[list[object]]:
    for source, exporter in dict.fromkeys(_origin(record) for record in records):
        own = [record for record in records if _origin(record) == (source, exporter)]
        yield _count_row(f"{source}, {exporter}", own)
    yield _count_row("all", records)


def _origin(record: Record) -> tuple[str, str]:
    return record["job"]["source"], record["job"]["exporter"]


def _picked_rows(records: Sequence[Record]) -> Iterator[list[object]]:
    """Yield, per family, exporter and kind of head, what was picked."""
    kinds: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        if "head" in record.get("picked", {}):
            kinds.setdefault(_kind(record), []).append(record)
    for (source, family, exporter, layer, head, affine), same in kinds.items():
        ok = f"{sum(map(_passed, same))} of {len(same)}"
        yield [f"{source} {family}", exporter, layer, head, affine, ok]


def _kind(record: Record) -> tuple[str, ...]:
    job, picked = record["job"], record["picked"]
    axes = "feature map" if len(picked["layer_shape"]) > 1 else "vector"
    shape = f"{picked['layer_from']} ({axes})"
    head = ", ".join(picked["head"])
    affine = "yes" if picked["affine"] else "no"
    return job["source"], job["family"], job["exporter"], shape, head, affine


def _failure_rows(records: Sequence[Record]) -> Iterator[list[object]]:
    for record in records:
        for failure in record.get("failures", ()):
            yield [record["job"]["name"], record["job"]["exporter"], failure.replace("|", "/")]


def _refusal_rows(records: Sequence[Record]) -> Iterator[list[object]]:
    causes = Counter(
        (record["job"]["source"], record["job"]["exporter"], record["export"].replace("|", "/"))
        for record in records
        if record["export"] != "ok"
    )
    for (source, exporter, cause), count in causes.most_common():
        names = [
            record["job"]["name"]
            for record in records
            if record["export"].replace("|", "/") == cause and _origin(record) == (source, exporter)
        ]
        yield [f"{source}, {exporter}", count, cause, ", ".join(names)]


def _print_section(title: str, columns: Sequence[str], rows: Iterator[list[object]]) -> None:
    print(f"\n## {title}\n\n{markdown_table(columns, list(rows))}")


def _report(records: Sequence[Record]) -> None:
    print(f"# What is picked in exported networks\n\nLimit: {PARAMETER_LIMIT:,} parameters.")
    _print_section(
        "Passed",
        ("exporter", "networks", "skipped", "exporter failed", "exported", "passed"),
        _by_exporter(records),
    )
    _print_section("Failed", ("network", "exporter", "cause"), _failure_rows(records))
    _print_section(
        "Picked",
        ("family", "exporter", "layer is output of", "from there to the logits", "affine", "ok"),
        _picked_rows(records),
    )
    _print_section(
        "Not exported", ("exporter", "networks", "cause", "names"), _refusal_rows(records)
    )


def main() -> None:
    """Run the jobs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(tempfile.gettempdir()) / "onnx-soda-finder.json"
    parser.add_argument("--cache", type=Path, default=default, help="file that keeps results")
    parser.add_argument("--minutes", type=float, default=_BUDGET_MINUTES, help="time to spend")
    parser.add_argument("--only", default="", help="run the networks with this in their key")
    arguments = parser.parse_args()
    require(*_NEEDED)
    jobs = [job for job in list_jobs() if arguments.only in job.key]
    _report(_run_all(jobs, arguments.cache, arguments.minutes))


if __name__ == "__main__":
    main()
