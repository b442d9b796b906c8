"""Puts findings in order and says what to do about each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from onnx_soda.report.schema import Finding
from onnx_soda.rules import RULES, SEVERITIES

__all__ = ["in_order"]


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with their rules' advice, the gravest first, else in the order they came."""
    advised = [replace(finding, advice=RULES[finding.rule_id].advice) for finding in findings]
    return tuple(sorted(advised, key=lambda finding: SEVERITIES.index(finding.severity)))
