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

__all__ = ["NamedPair", "pair_in_report", "repair_to_json"]

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
