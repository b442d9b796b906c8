"""Writes reports as JSON, and to files."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from onnx_soda._answers import RepairSummary
from onnx_soda._errors import OutputError, RepairError
from onnx_soda._report.words import class_label, printable
from onnx_soda._results import (
    SCHEMA_VERSION,
    Finding,
    ModelInfo,
    Outcome,
    ScanFailure,
    ScanReport,
    ToolInfo,
)
from onnx_soda._rules import SEVERITIES
from onnx_soda._system import held_back


def report_as_dict(report: ScanReport) -> dict[str, Any]:
    """Return a report as plain dicts and lists, as its JSON form has it."""
    plain: dict[str, Any] = json.loads(to_json(report))
    return plain


def to_json(document: Any) -> str:
    """Return a report, or any other dataclass, as JSON text ending in a newline."""
    return json.dumps(dataclasses.asdict(document), indent=2, allow_nan=False) + "\n"


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the report."""
    text = files("onnx_soda._report").joinpath("scan-report.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def check_writable(path: Path, *inputs: Path | None) -> None:
    """Make sure that a file can be written, before the work for it begins.

    Args:
        path: The file.
        inputs: What the work reads or writes elsewhere; None stands for nothing.

    Raises:
        OutputError: Its folder is missing or not writable, the path is a folder, or one of the
            inputs.
    """
    if any(one is not None and _same(path, one) for one in inputs):
        raise OutputError(
            f"{path.name} would be overwritten, which this command reads or writes otherwise",
            "Choose another name.",
        )
    folder = path.resolve().parent
    if not folder.is_dir():
        raise OutputError(f"the folder of {path.name} does not exist", "Make it first.")
    if path.is_dir():
        raise OutputError(f"{path.name} is a folder", "Give the name of a file.")
    if not os.access(path if _is_device(path) else folder, os.W_OK):
        raise OutputError(f"the folder of {path.name} is not writable", "Choose another one.")


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other) and not _is_device(one)
    return one.resolve() == other.resolve()


def _is_device(path: Path) -> bool:
    """Tell whether a path is something that is there and is no file: /dev/null, a pipe."""
    return path.exists() and not path.is_file()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: beside its place first, then renamed.

    Where the path is a symbolic link, the file behind it is written; what is no file, such as
    /dev/null or a pipe, is written to directly.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        if _is_device(path):
            path.write_text(text, encoding="utf-8")
            return
        with held_back():
            _write_beside(path.resolve(), text)
    except OSError as error:
        raise OutputError(
            f"{path.name} cannot be written: {error.strerror}", "Choose another place."
        ) from error


def _write_beside(path: Path, text: str) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        # mkstemp makes files for their owner only; a report is an ordinary file.
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_STYLES = {"clean": "green", "backdoor": "bold red", "inconclusive": "yellow"}


@dataclass(frozen=True)
class BatchReport:
    """Scans of many models. The JSON form is these fields, an outcome as `ScanReport` has it.

    Attributes:
        schema_version: Version of the form of the reports.
        tool: The program.
        summary: Number of models by verdict; "failed" are those that could not be scanned.
        places: Path of each model; models in two folders may have one name.
        outcomes: A report or, with "message" in it, a `ScanFailure` for each model.
    """

    schema_version: str
    tool: ToolInfo
    summary: dict[str, int]
    places: tuple[str, ...]
    outcomes: tuple[Outcome, ...]


def batch_report(outcomes: Sequence[Outcome], places: Sequence[str]) -> BatchReport:
    """Put outcomes together.

    Args:
        outcomes: Of the scans.
        places: Path of each model.
    """
    kinds = [_verdict(outcome) for outcome in outcomes]
    summary = {kind: kinds.count(kind) for kind in (*_STYLES, "failed")}
    tool = ToolInfo("onnx-soda", version("onnx-soda"))
    return BatchReport(SCHEMA_VERSION, tool, summary, tuple(places), tuple(outcomes))


def batch_table(outcomes: Sequence[Outcome], places: Sequence[str], times: Sequence[str]) -> Table:
    """Return a row for each model.

    Args:
        outcomes: Of the scans.
        places: Path of each model as given.
        times: How long each took.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("model", "verdict", "finding", "pair", "seconds"):
        table.add_column(name, overflow="fold", justify="right" if name == "seconds" else "left")
    for outcome, place, seconds in zip(outcomes, places, times, strict=True):
        verdict = _verdict(outcome)
        table.add_row(
            Text(printable(place)),
            Text(verdict, _STYLES.get(verdict, "bold magenta")),
            *_finding(outcome),
            seconds,
        )
    return table


def _verdict(outcome: Outcome) -> str:
    return "failed" if isinstance(outcome, ScanFailure) else outcome.verdict


def _finding(outcome: Outcome) -> tuple[Text, Text]:
    if isinstance(outcome, ScanFailure):
        rule = f"{outcome.rule_id}: " if outcome.rule_id else ""
        return Text(printable(rule + outcome.message)), Text()
    worst = min(outcome.findings, key=_gravity, default=None)
    if worst is None:
        return Text(), Text()
    names = outcome.dataset.class_names if outcome.dataset else None
    known = ", accepted" if worst.accepted else ""
    pair = ""
    if worst.target_class is not None:
        ends = (worst.victim_class, worst.target_class)
        pair = " -> ".join("?" if end is None else class_label(end, names) for end in ends)
    return Text(f"{worst.rule_id} {worst.severity}{known}"), Text(printable(pair))


def _gravity(finding: Finding) -> tuple[bool, int]:
    return finding.accepted is not None, SEVERITIES.index(finding.severity)


# Larger than any report.
_MOST_BYTES = 64 * 2**20


def repair_to_json(summary: RepairSummary, scan: ScanReport | None, model: ModelInfo) -> str:
    """Return a repair as JSON text: the fields of the scan, where there was one, and `repair`.

    Args:
        summary: The repair.
        scan: The scan that found the pair; None where the pair was given.
        model: The model that was repaired.
    """
    document: dict[str, Any]
    if scan is not None:
        document = dataclasses.asdict(scan)
    else:
        tool = ToolInfo("onnx-soda", version("onnx-soda"))
        document = {
            "schema_version": SCHEMA_VERSION,
            "tool": dataclasses.asdict(tool),
            "model": dataclasses.asdict(model),
        }
    document["repair"] = dataclasses.asdict(summary)
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


@dataclasses.dataclass(frozen=True)
class NamedPair:
    """A pair that a report names.

    Attributes:
        pair: Victim and target class.
        also: Other classes that the same changes turn into the target.
    """

    pair: tuple[int, int]
    also: tuple[int, ...]


def pair_in_report(path: Path, sha256: str) -> NamedPair | None:
    """Return the first pair that a JSON report of `onnx-soda scan` names; None where none is.

    Args:
        path: The report.
        sha256: Digest of the model at hand, which the report must be about.

    Raises:
        RepairError: It cannot be read, is no such report, or is about another model.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RepairError(f"{path.name} is too large for a report", "Give the scan's JSON.")
        document = json.loads(path.read_text(encoding="utf-8"))
        scanned, findings = document["model"]["sha256"], document["findings"]
        pairs = [(entry["victim_class"], entry["target_class"]) for entry in findings]
        named = next((p for p in pairs if all(isinstance(label, int) for label in p)), None)
        found = named and NamedPair(named, _also_turned(document, named))
    except OSError as error:
        raise RepairError(
            f"{path.name} cannot be read: {error.strerror}", "Check its path."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RepairError(
            f"{path.name} is no report of a scan", "Write one: onnx-soda scan ... --format json."
        ) from error
    if scanned != sha256:
        raise RepairError(f"{path.name} is about another model", "Scan this model first.")
    return found


def _also_turned(document: dict[str, Any], pair: tuple[int, int]) -> tuple[int, ...]:
    concepts = document["evidence"].get("concepts") or {}
    told = (
        label
        for entry in concepts.get("pairs", ())
        if (entry["victim_class"], entry["target_class"]) == pair
        for label in entry.get("also_turned", ())
    )
    return tuple(int(label) for label in dict.fromkeys(told))
