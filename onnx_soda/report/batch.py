"""Many scans in one report: as JSON, and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from rich.table import Table
from rich.text import Text

from onnx_soda.report.outcomes import Outcome, ScanFailure
from onnx_soda.report.plain import class_label, printable
from onnx_soda.report.schema import SCHEMA_VERSION, Finding, ToolInfo
from onnx_soda.rules import SEVERITIES

__all__ = ["BatchReport", "batch_report", "batch_table"]

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
