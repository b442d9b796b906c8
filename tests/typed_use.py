"""Checked by mypy in `make lint`, never run: callers get the types, and mistakes are told.

A comment that ignores an error is an error itself where there is none, so each of them is a test.
"""

from __future__ import annotations

from onnx_soda import (
    ConvertOptions,
    RepairAnswer,
    RepairOptions,
    ScanOptions,
    ScanReport,
    repair_file,
    scan_file,
)


def right() -> tuple[ScanReport, RepairAnswer]:
    report = scan_file("model.onnx", "clean.h5", options=ScanOptions(method="soda", seed=1))
    answer = repair_file("model.onnx", "clean.h5", "out.onnx", pair=(8, 3))
    return report, answer


def wrong() -> None:
    ConvertOptions(nonsense=3)  # type: ignore[call-arg]
    RepairOptions(scope="everything")  # type: ignore[arg-type]
    scan_file("model.onnx", limits="none")  # type: ignore[arg-type]
    scan_file("model.onnx").nonsense  # type: ignore[attr-defined]  # noqa: B018
