"""From the evidence of all detectors to a verdict.

One detector, the method, decides about the model's behaviour. The tables below say which others
run, and what their evidence does. It is never "clean" where something was not examined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from onnx_soda._detect.base import Decision, shortfalls
from onnx_soda._options import AUTO
from onnx_soda._results import Evidence, Finding, StopCause, Verdict
from onnx_soda._rules import RULES, SEVERITIES, WEIGHTY, Rule

if TYPE_CHECKING:  # they import ONNX; report forms ask for names alone
    from onnx_soda._preflight.limits import FileFinding
    from onnx_soda._suspect import Examined

ALWAYS = ("graph-logic",)
"""Run whatever the method. A high finding of theirs makes the verdict "backdoor", and a medium one
keeps it from being "clean"; finding nothing clears nothing."""
BESIDE = ("soda",)
"""Shown beside another method, which decides: the paper's statistic flags most clean models
(docs/paper-statistic.md)."""
AFTERWARDS = ("patches",)
"""Run after the method in a default scan, and count as those of `ALWAYS` do."""
ALONE, WITH_REFERENCES = "concepts", "second-opinion"
"""What decides where the method is "auto": without reference models, or where these show nothing;
and with them, which comes first."""


def detectors_of(method: str, references: bool = False) -> tuple[str, ...]:
    """Return the detectors that look at the model's behaviour, the one that decides last.

    Args:
        method: Name of the one that decides, or "auto".
        references: Whether there are reference models.
    """
    deciding = method
    if method == AUTO:
        deciding = WITH_REFERENCES if references else ALONE
    beside = (*BESIDE, *((WITH_REFERENCES,) if references else ()))
    return (*(name for name in beside if name != deciding), deciding)


def afterwards_of(method: str, patches: bool) -> tuple[str, ...]:
    """Return the detectors that look at the behaviour after the method.

    Args:
        method: Name of the one that decides, or "auto".
        patches: Whether patches are to be searched for.
    """
    default = method in (AUTO, ALONE, WITH_REFERENCES)
    return AFTERWARDS if default and patches else ()


def needs_more(method: str, evidence: Mapping[str, Evidence]) -> bool:
    """Tell whether "auto" must look without references, too: these have shown nothing."""
    heard = evidence.get(WITH_REFERENCES)
    return method == AUTO and heard is not None and not heard.findings


def joined(evidence: Mapping[str, Evidence]) -> Evidence:
    """Return what decides where "auto" looked with references and then without.

    What was found without them counts. Where nothing was, one that has seen enough to call the
    model clean is enough, unless something is unclear to either.

    Args:
        evidence: By detector.
    """
    heard, alone = evidence[WITH_REFERENCES], evidence[ALONE]
    if alone.findings or not heard.numbers:
        return alone
    both = (heard, alone)
    sure = [one for one in both if one.verdict == "clean"]
    unclear = [one for one in both if one.unclear]
    verdict: Verdict = "clean" if sure and not unclear else "inconclusive"
    reasons = dict.fromkeys(reason for one in unclear or sure or both for reason in one.reasons)
    told = dict.fromkeys((*reasons, *heard.notes))
    return replace(heard, verdict=verdict, reasons=tuple(told))


def decide(
    method: Evidence, beside: Sequence[Evidence], examined: Examined, notes: Sequence[str] = ()
) -> Decision:
    """Decide about the model's behaviour.

    Args:
        method: Evidence of the detector that decides.
        beside: Evidence of those that are shown beside it.
        examined: What was examined.
        notes: Sentences about choices that the graph left open.
    """
    verdict, reasons = method.verdict, method.reasons
    gaps = [gap for gap in shortfalls(examined) if gap not in reasons]
    if verdict == "clean" and gaps:
        verdict, reasons = "inconclusive", (*gaps, *reasons)
    told = [note for evidence in beside for note in evidence.notes]
    return Decision(verdict, (*reasons, *told, *notes), method.findings)


def with_always(decision: Decision, evidence: Evidence) -> Decision:
    """Return a decision that takes a detector of `ALWAYS` into account."""
    weighty = [finding for finding in evidence.findings if finding.severity in WEIGHTY]
    verdict = decision.verdict
    if any(finding.severity == "high" for finding in weighty):
        verdict = "backdoor"
    elif weighty and verdict == "clean":
        verdict = "inconclusive"
    return Decision(
        verdict,
        (*evidence.reasons, *decision.reasons, *evidence.unexamined),
        (*decision.findings, *evidence.findings),
    )


def with_afterwards(decision: Decision, evidence: Evidence) -> Decision:
    """Return a decision that takes a detector of `AFTERWARDS` into account."""
    if is_weighty(evidence):
        return with_always(decision, replace(evidence, unexamined=()))
    return replace(decision, reasons=(*decision.reasons, *evidence.notes))


_STOPPED: Mapping[StopCause, str] = {
    "time limit": "the time that it may take (`seconds`) was over",
    "aim": "the time that it aims at (`time_limit`) was over",
    "interrupt": "it was interrupted",
}


def cut_short(decision: Decision, why: StopCause) -> Decision:
    """Return a decision about a scan that ended before it was complete: it is never "clean"."""
    told = f"The scan is not complete: {_STOPPED[why]}."
    if decision.verdict == "backdoor":  # what is sure comes first
        first, *others = decision.reasons
        return replace(decision, reasons=tuple(dict.fromkeys((first, told, *others))))
    reasons = tuple(dict.fromkeys((told, *decision.reasons)))
    return replace(decision, verdict="inconclusive", reasons=reasons)


def is_weighty(evidence: Evidence) -> bool:
    """Tell whether a detector's findings alone keep the verdict from being "clean"."""
    return any(finding.severity in WEIGHTY for finding in evidence.findings)


def with_file_findings(decision: Decision, findings: Sequence[FileFinding]) -> Decision:
    """Return a decision that also tells what is unusual about the file; the verdict stays."""
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


def with_advice(
    findings: Iterable[Finding], rules: Mapping[str, Rule] = RULES
) -> tuple[Finding, ...]:
    """Return findings with their rules' advice.

    Args:
        findings: In any order, which stays.
        rules: By id; a finding of another rule keeps its own advice.
    """
    return tuple(
        replace(finding, advice=rules[finding.rule_id].advice)
        if finding.rule_id in rules
        else finding
        for finding in findings
    )


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings with their rules' advice, the most severe first, else as they came."""
    severity = {severity: place for place, severity in enumerate(SEVERITIES)}
    return tuple(sorted(with_advice(findings), key=lambda finding: severity[finding.severity]))
