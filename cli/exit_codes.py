"""The exit codes of every command, in one place."""

from __future__ import annotations

from onnx_soda.report.schema import Verdict

__all__ = ["CLEAN", "COULD_NOT_SCAN", "FOUND", "INCONCLUSIVE", "of_verdict"]

CLEAN = 0
FOUND = 1
# Also wrong usage: Typer exits with 2 on its own.
COULD_NOT_SCAN = 2
INCONCLUSIVE = 3


def of_verdict(verdict: Verdict) -> int:
    """Return the exit code of a verdict."""
    return {"clean": CLEAN, "backdoor": FOUND, "inconclusive": INCONCLUSIVE}[verdict]
