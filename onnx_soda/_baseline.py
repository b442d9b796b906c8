"""Findings that are known and accepted: for one model, for a reason, until a day.

A baseline is a JSON file that is named on the command line, never one that lies beside a model. An
entry is about a model's content, by its digest: a changed model is a new model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from onnx_soda._errors import BaselineError
from onnx_soda._results import Acceptance, Finding, ScanReport
from onnx_soda._system import read_json, read_plain

_VERSION = 1
_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Entry:
    """An accepted finding.

    Attributes:
        sha256: Identifies the model and its weights, see `identity`.
        rule_id: The finding's rule.
        victim_class: As in the finding.
        target_class: As in the finding.
        reason: Why it is accepted.
        expires: The last day on which it is.
    """

    sha256: str
    rule_id: str
    victim_class: int | None
    target_class: int | None
    reason: str
    expires: date

    def covers(self, report: ScanReport, finding: Finding) -> bool:
        """Tell whether a finding is the one that is meant."""
        own = (self.sha256, self.rule_id, self.victim_class, self.target_class)
        # A file that was too large to be read whole has no digest to know it by.
        return bool(self.sha256) and own == (
            identity(report),
            finding.rule_id,
            finding.victim_class,
            finding.target_class,
        )


@dataclass(frozen=True)
class Baseline:
    """What a baseline file holds.

    Attributes:
        version: Of its form.
        accepted: The entries.
    """

    version: int
    accepted: tuple[Entry, ...]


@dataclass(frozen=True)
class Applied:
    """Reports with accepted findings marked.

    Attributes:
        reports: The reports.
        expired: Entries that are about these reports and over.
        unused: Entries that no finding matches.
    """

    reports: tuple[ScanReport, ...]
    expired: tuple[Entry, ...]
    unused: tuple[Entry, ...]


def identity(report: ScanReport) -> str:
    """Return the digest of a model: its file's, or one of all files where weights lie beside it."""
    model = report.model
    if not model.external_data:
        return model.sha256
    lines = sorted(f"{one.file}\0{one.sha256}\n" for one in model.external_data)
    return hashlib.sha256("".join([f"{model.sha256}\n", *lines]).encode()).hexdigest()


def read_baseline(path: Path) -> Baseline:
    """Read a baseline file.

    Raises:
        BaselineError: It cannot be read, or is not of its form.
    """
    baseline: Baseline = _read(path, Baseline)
    if baseline.version != _VERSION:
        raise BaselineError(
            f"{path.name} is a baseline of version {baseline.version}, not {_VERSION}",
            "Write it anew: onnx-soda baseline.",
        )
    return baseline


def apply_baseline(reports: Sequence[ScanReport], entries: Sequence[Entry], today: date) -> Applied:
    """Mark the accepted findings of reports.

    Args:
        reports: Scans.
        entries: What is accepted.
        today: Entries whose day is over do not count.
    """
    valid = [entry for entry in entries if entry.expires >= today]
    matched = {
        entry
        for entry in entries
        for report in reports
        for finding in report.findings
        if entry.covers(report, finding)
    }
    return Applied(
        tuple(_marked(report, valid) for report in reports),
        tuple(entry for entry in entries if entry in matched and entry.expires < today),
        tuple(entry for entry in entries if entry not in matched),
    )


def _marked(report: ScanReport, entries: Iterable[Entry]) -> ScanReport:
    own = [entry for entry in entries if entry.sha256 == identity(report)]

    def mark(finding: Finding) -> Finding:
        found = next((entry for entry in own if entry.covers(report, finding)), None)
        if found is None:
            return finding
        return replace(finding, accepted=Acceptance(found.reason, found.expires.isoformat()))

    return replace(report, findings=tuple(map(mark, report.findings)))


def entries_of(path: Path, reason: str, expires: date) -> list[Entry]:
    """Return entries for all findings in a JSON report, of one model or of many.

    Args:
        path: The report.
        reason: Why they are accepted.
        expires: Until when.

    Raises:
        BaselineError: It cannot be read, or is no report.
    """
    content: Any = _read(path, dict)
    outcomes = content.get("outcomes", [content])
    try:
        reports = [
            read_plain(outcome, ScanReport)
            for outcome in outcomes
            if "verdict" in outcome or outcome is content
        ]
    except (msgspec.ValidationError, TypeError) as error:
        raise BaselineError(
            f"{path.name} is no report of this version: {error}", "Scan the model again."
        ) from error
    entries = {
        Entry(
            identity(report),
            finding.rule_id,
            finding.victim_class,
            finding.target_class,
            reason,
            expires,
        ): None
        for report in reports
        for finding in report.findings
    }
    return list(entries)


def merged(kept: Iterable[Entry], new: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return entries with new ones; what is accepted anew has the new reason and day.

    Args:
        kept: What was accepted before.
        new: What is accepted now.
    """
    by_finding = {
        (one.sha256, one.rule_id, one.victim_class, one.target_class): one for one in (*kept, *new)
    }
    return tuple(by_finding.values())


def _read(path: Path, kind: Any) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise BaselineError(f"{path.name} is too large", "Check which file it is.")
        return read_json(path.read_bytes(), kind)
    except (OSError, msgspec.MsgspecError, RecursionError) as error:
        raise BaselineError(
            f"{path.name} cannot be read: {error}",
            "Reports are written by `onnx-soda scan --format json`, baselines by "
            "`onnx-soda baseline`.",
        ) from error
