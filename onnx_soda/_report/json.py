"""The JSON report: the fields of the result's classes, one by one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from onnx_soda._answers import RepairAnswer
from onnx_soda._errors import RepairError
from onnx_soda._report.formats import Context, RepairFormat, Scanned
from onnx_soda._results import FILES, SCHEMA_VERSION, Outcome, ScanFailure, ScanReport, ToolInfo
from onnx_soda._system import read_json
from onnx_soda._words import printable

# Larger than any report.
_MOST_BYTES = 64 * 2**20


class JsonFormat(RepairFormat):
    """The report for programs: one document, of one model or of many."""

    name: ClassVar[str] = "json"
    failures: ClassVar[bool] = False

    def render(self, scanned: Sequence[Scanned], context: Context) -> str:
        """See `Format.render`."""
        if context.single:
            return to_json(scanned[0].outcome)
        return to_json(
            batch_report(
                [one.outcome for one in scanned],
                [one.place for one in scanned],
                context.skipped,
            )
        )

    def render_repair(self, answer: RepairAnswer, written: str | None, context: Context) -> str:
        """Return the fields of the scan, where there was one, and `repair`."""
        del written, context
        if answer.scan is not None:
            document = dataclasses.asdict(answer.scan)
        else:
            document = {
                "schema_version": SCHEMA_VERSION,
                "tool": dataclasses.asdict(ToolInfo("onnx-soda", version("onnx-soda"))),
                "model": dataclasses.asdict(answer.model),
            }
        document["repair"] = dataclasses.asdict(answer.summary)
        return _dumped(document)


@dataclass(frozen=True)
class BatchReport:
    """Scans of many models. The JSON form is these fields, an outcome as `ScanReport` has it.

    Attributes:
        schema_version: Version of the form of the reports.
        tool: The program.
        summary: Number of models by verdict; "failed" are those that could not be scanned.
        places: Path of each model; models in two folders may have one name.
        outcomes: A report or, with "message" in it, a `ScanFailure` for each model.
        skipped: Paths of files that were not looked at, since they are of no known kind.
    """

    schema_version: str
    tool: ToolInfo
    summary: dict[str, int]
    places: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    skipped: tuple[str, ...] = ()


def batch_report(
    outcomes: Sequence[Outcome], places: Sequence[str], skipped: Sequence[str] = ()
) -> BatchReport:
    """Put outcomes together.

    Args:
        outcomes: Of the scans.
        places: Path of each model.
        skipped: Paths of files that were not looked at.
    """
    kinds = ["failed" if isinstance(one, ScanFailure) else one.verdict for one in outcomes]
    files = bool(outcomes) and all(
        isinstance(one, ScanFailure) or one.evidence.keys() == {FILES} for one in outcomes
    )
    passed = ("no finding",) if files else ("clean", "backdoor")
    verdicts = (*passed, "inconclusive", "unsafe", "failed")
    summary = {kind: kinds.count(kind) for kind in verdicts}
    tool = ToolInfo("onnx-soda", version("onnx-soda"))
    return BatchReport(
        SCHEMA_VERSION, tool, summary, tuple(places), tuple(outcomes), tuple(skipped)
    )


def report_as_dict(report: ScanReport) -> dict[str, Any]:
    """Return a report as plain dicts and lists, as its JSON form has it."""
    plain: dict[str, Any] = json.loads(to_json(report))
    return plain


def to_json(document: Any) -> str:
    """Return a report, or any other dataclass, as JSON text ending in a newline."""
    return _dumped(dataclasses.asdict(document))


def _dumped(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def report_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the report."""
    text = files("onnx_soda._report").joinpath("scan-report.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def read_report(path: str | Path, sha256: str | None = None) -> ScanReport:
    """Read the JSON report of a scan of one model.

    Args:
        path: The report.
        sha256: Digest of the model that the report must be about, where there is one at hand.

    Raises:
        RepairError: It cannot be read, is no such report, has another major version of the
            schema, or is about another model.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RepairError(f"{path.name} is too large for a report", "Give the scan's JSON.")
        text = path.read_bytes()
        _check_version(text, path.name)
        report: ScanReport = read_json(text, ScanReport)
    except OSError as error:
        raise RepairError(
            f"{path.name} cannot be read: {error.strerror}", "Check its path."
        ) from error
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise RepairError(
            f"{path.name} is no report of a scan of one model",
            "Write one: `onnx-soda scan MODEL --format json`.",
        ) from error
    if sha256 is not None and report.model.sha256 != sha256:
        raise RepairError(f"{path.name} is about another model", "Scan this model first.")
    return report


class _Versioned(msgspec.Struct):
    schema_version: str


def _check_version(text: bytes, name: str) -> None:
    """Refuse a report whose fields mean something else than ours."""
    version_found: str = read_json(text, _Versioned).schema_version
    if version_found.partition(".")[0] != SCHEMA_VERSION.partition(".")[0]:
        raise RepairError(
            f"{name} has schema version {printable(version_found)[:20]}; this release reads "
            f"{SCHEMA_VERSION}",
            "Scan the model again: `onnx-soda scan MODEL --format json`.",
        )
