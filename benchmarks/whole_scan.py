"""Runs `onnx-soda scan` as a user does, and tells what it took: passes, seconds, peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import MEBIBYTE_UNITS

__all__ = ["SCAN_COLUMNS", "WholeScan", "run_scan"]

# Exit codes of a scan that ended as it should: clean, a finding, inconclusive.
_ENDED = (0, 1, 3)
SCAN_COLUMNS = (
    "passes planned", "real", "planned / real", "seconds planned", "real", "planned / real",
    "processor seconds", "peak MiB", "victims", "concepts of the battery",
    "images of each class and half", "stopped",
)  # fmt: skip
"""What `WholeScan.cells` tells."""
_PARTS = ("classes as victims", "concepts of the battery", "images of each class and half")


@dataclass(frozen=True)
class WholeScan:
    """What a scan said and took.

    Attributes:
        report: Its JSON report.
        told: What it wrote to stderr.
        seconds: By the clock, the start of Python included.
        processor: Seconds of the processor, its child included.
        peak: The most memory that its child had in RAM, in MiB.
    """

    report: dict[str, Any]
    told: str
    seconds: float
    processor: float
    peak: float

    @property
    def numbers(self) -> dict[str, Any]:
        """What the detector of concepts counted; empty where it did not run."""
        evidence = self.report["evidence"].get("concepts") or {}
        return evidence.get("numbers") or {}

    @property
    def covered(self) -> dict[str, Any] | None:
        """What was planned and done; None where the search did not begin."""
        found: dict[str, Any] | None = self.numbers.get("covered")
        return found

    @property
    def passes(self) -> int:
        """Images that went through the model."""
        return int(self.report["coverage"]["passes"])

    def cells(self) -> list[object]:
        """Return cells for `SCAN_COLUMNS`."""
        covered = self.covered or {}
        parts = {
            one["name"]: f"{one['done']} of {one['whole']}" for one in covered.get("parts", ())
        }
        return [
            *_compared(covered.get("passes"), self.passes),
            *_compared(covered.get("seconds"), self.seconds),
            f"{self.processor:.0f}",
            f"{self.peak:.0f}",
            *(parts.get(name, "-") for name in _PARTS),
            self.report["stopped"] or "no",
        ]


def _compared(planned: float | None, real: float) -> list[str]:
    if not planned:
        return ["-", f"{real:.0f}", "-"]
    return [f"{planned:.0f}", f"{real:.0f}", f"{planned / real:.2f}"]


def run_scan(model: Path, data: Path, *options: str) -> WholeScan:
    """Scan a model in a process of its own.

    Args:
        model: Its file.
        data: Its clean set.
        options: Of the command line.

    Raises:
        SystemExit: The scan did not end as it should.
    """
    with tempfile.TemporaryDirectory() as folder:
        report, told = Path(folder) / "report.json", Path(folder) / "told"
        command = [sys.executable, "-m", "onnx_soda", "scan", str(model), "--data", str(data)]
        start = time.monotonic()
        with told.open("w", encoding="utf-8") as lines:
            child = subprocess.Popen(
                [*command, "--format", f"json={report}", *options],
                stdout=subprocess.DEVNULL,
                stderr=lines,
            )
            # Unlike getrusage, this tells of one child, and of those that it has waited for.
            _, status, used = os.wait4(child.pid, 0)
        seconds, text = time.monotonic() - start, told.read_text(encoding="utf-8")
        if os.waitstatus_to_exitcode(status) not in _ENDED:
            raise SystemExit(f"the scan of {model.name} ended with {status}: {text}")
        return WholeScan(
            json.loads(report.read_text(encoding="utf-8")),
            text,
            seconds,
            used.ru_utime + used.ru_stime,
            used.ru_maxrss / MEBIBYTE_UNITS,
        )
