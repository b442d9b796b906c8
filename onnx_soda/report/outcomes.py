"""How the scan of one of many models ended: with a report, or with the reason why not."""

from __future__ import annotations

from dataclasses import dataclass

from onnx_soda.errors import explained
from onnx_soda.report.schema import ScanReport

__all__ = ["Outcome", "ScanFailure", "failure_of"]


@dataclass(frozen=True)
class ScanFailure:
    """A model that could not be scanned.

    Attributes:
        file: Name of the file, without its folder.
        message: Why not, in one sentence.
        advice: What to do about it; may be empty.
        rule_id: The rule by which the file was refused, as "SODA303"; None where none applies.
    """

    file: str
    message: str
    advice: str
    rule_id: str | None


Outcome = ScanReport | ScanFailure


def failure_of(file: str, error: Exception) -> ScanFailure:
    """Return what is reported of an error that ended a scan."""
    told = explained(error)
    return ScanFailure(file, told.message, told.advice, told.rule_id)
