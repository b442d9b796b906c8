"""The exit codes of every command, in one place."""

from __future__ import annotations

from collections.abc import Iterable

from onnx_soda.report.outcomes import Outcome, ScanFailure
from onnx_soda.report.schema import ScanReport
from onnx_soda.rules import SEVERITIES, WEIGHTY, Severity

__all__ = [
    "CLEAN",
    "COULD_NOT_SCAN",
    "FOUND",
    "INCONCLUSIVE",
    "of_outcome",
    "of_report",
    "without_verdict",
    "worst",
]

CLEAN = 0
FOUND = 1
# Also wrong usage: Typer exits with 2 on its own.
COULD_NOT_SCAN = 2
INCONCLUSIVE = 3


def of_report(report: ScanReport, fail_on: Severity) -> int:
    """Return the exit code of a scan.

    Args:
        report: The scan.
        fail_on: Findings of this severity or a graver one are reason for 1.

    Returns:
        1 with such a finding; else 0 where the verdict is "clean", 3 where it is not: lesser
        findings that speak for a backdoor are no proof, and no "clean" either. Accepted findings
        do not count: where a "backdoor" has no others, 0.
    """
    grave = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    counted = [finding for finding in report.findings if finding.accepted is None]
    if any(finding.severity in grave for finding in counted):
        return FOUND
    # What says nothing about the verdict leaves it as it is known.
    open_ = any(finding.severity in WEIGHTY for finding in counted)
    known = report.verdict == "backdoor" and not open_ and bool(report.findings)
    return CLEAN if known or report.verdict == "clean" else INCONCLUSIVE


def of_outcome(outcome: Outcome, fail_on: Severity) -> int:
    """Return the exit code of one of many scans; see `of_report`."""
    return COULD_NOT_SCAN if isinstance(outcome, ScanFailure) else of_report(outcome, fail_on)


def without_verdict(code: int) -> int:
    """Return the exit code where no verdict is to have one, as --exit-zero says."""
    return code if code == COULD_NOT_SCAN else CLEAN


def worst(codes: Iterable[int]) -> int:
    """Return the exit code of several scans: found, else could not scan, inconclusive, clean."""
    order = (FOUND, COULD_NOT_SCAN, INCONCLUSIVE, CLEAN)
    return min(codes, key=order.index, default=CLEAN)
