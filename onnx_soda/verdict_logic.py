"""Adds to a verdict what the graph's logic and the file itself say.

A decision written into the graph needs no images to be a backdoor: a grave one makes the verdict
"backdoor", a lesser one keeps it from being "clean". What is unusual about the file says nothing
about what the model does, so it is told and leaves the verdict alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onnx_soda.logic.evidence import LogicEvidence, LogicFinding
from onnx_soda.preflight.finding import FileFinding
from onnx_soda.report.schema import Finding
from onnx_soda.rules import WEIGHTY
from onnx_soda.verdict import Decision

__all__ = ["file_findings", "is_weighty", "with_file_findings", "with_logic"]


def is_weighty(evidence: LogicEvidence) -> bool:
    """Tell whether the graph's logic alone keeps the verdict from being "clean"."""
    return any(finding.severity in WEIGHTY for finding in evidence.findings)


def with_logic(decision: Decision, evidence: LogicEvidence) -> Decision:
    """Return a decision that takes the graph's logic into account.

    Args:
        decision: What the model's behaviour says.
        evidence: What its graph says.
    """
    found = tuple(_logic_finding(finding) for finding in evidence.findings)
    weighty = [finding for finding in found if finding.severity in WEIGHTY]
    # Several rules may speak of one decision.
    told = dict.fromkeys(finding.message for finding in weighty)
    verdict = decision.verdict
    if any(finding.severity == "high" for finding in weighty):
        verdict = "backdoor"
    elif weighty and verdict == "clean":
        verdict = "inconclusive"
    return Decision(
        verdict,
        (*told, *decision.reasons, *evidence.notes),
        (*decision.findings, *found),
    )


def with_file_findings(decision: Decision, findings: Sequence[FileFinding]) -> Decision:
    """Return a decision that also tells what is unusual about the file."""
    return replace(decision, findings=(*decision.findings, *file_findings(findings)))


def file_findings(findings: Sequence[FileFinding]) -> tuple[Finding, ...]:
    """Return what is unusual about a file in its form in the report."""
    return tuple(
        Finding(
            rule_id=finding.rule_id,
            severity=finding.severity,
            victim_class=None,
            target_class=None,
            score=None,
            threshold=None,
            message=finding.message,
            location=(finding.location,) if finding.location else (),
        )
        for finding in findings
    )


def _logic_finding(finding: LogicFinding) -> Finding:
    proof = f" {finding.status.capitalize()}"
    proof += f"; {finding.trigger} takes the decision." if finding.trigger else "."
    return Finding(
        rule_id=finding.rule_id,
        severity=finding.severity,
        victim_class=None,
        target_class=finding.flipped,
        score=None,
        threshold=None,
        message=finding.reason + proof,
        location=finding.nodes,
    )
