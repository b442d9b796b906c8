"""The JSON report of a repair, and the pair that a kept JSON report of a scan names."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from onnx_soda.errors import RepairError
from onnx_soda.report.repair_schema import RepairSummary
from onnx_soda.report.schema import SCHEMA_VERSION, ModelInfo, ScanReport, ToolInfo

__all__ = ["pair_in_report", "repair_to_json"]

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


def pair_in_report(path: Path, sha256: str) -> tuple[int, int] | None:
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
    except OSError as error:
        raise RepairError(
            f"{path.name} cannot be read: {error.strerror}", "Check its path."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RepairError(
            f"{path.name} is no report of a scan", "Write one: onnx-soda scan ... --format json."
        ) from error
    if scanned != sha256:
        raise RepairError(f"{path.name} is about another model", "Scan this model first.")
    return next(((v, t) for v, t in pairs if isinstance(v, int) and isinstance(t, int)), None)
