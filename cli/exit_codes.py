"""The exit codes of every command, in one place."""

from __future__ import annotations

from onnx_soda.report.schema import ScanReport
from onnx_soda.rules import SEVERITIES, Severity

__all__ = ["CLEAN", "COULD_NOT_SCAN", "FOUND", "INCONCLUSIVE", "of_report"]

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
        findings that speak for a backdoor are no proof, and no "clean" either.
    """
    grave = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    if any(finding.severity in grave for finding in report.findings):
        return FOUND
    return CLEAN if report.verdict == "clean" else INCONCLUSIVE
