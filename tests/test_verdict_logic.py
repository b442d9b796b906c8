"""How the graph's logic and the file itself change a verdict."""

from __future__ import annotations

import pytest

from onnx_soda._detect.base import Decision
from onnx_soda._detect.graph_logic.detector import LogicEvidence, LogicFinding, as_evidence
from onnx_soda._preflight.limits import FileFinding
from onnx_soda._results import Evidence, Finding, Verdict
from onnx_soda._rules import RULES, Severity
from onnx_soda._verdict import in_order, is_weighty, with_always, with_file_findings

CLEAN = Decision("clean", ("Nothing stands out.",), ())


def logic(*severities: Severity) -> Evidence:
    findings = tuple(
        LogicFinding("SODA202", severity, "suspected", ("t", "out"), f"Reason {number}.")
        for number, severity in enumerate(severities)
    )
    return as_evidence(LogicEvidence(findings, 10, 0, ("One body was not examined.",)))


@pytest.mark.parametrize(
    ("before", "severities", "after"),
    [
        ("clean", (), "clean"),
        ("clean", ("low", "info"), "clean"),
        ("clean", ("medium",), "inconclusive"),
        ("clean", ("high", "medium"), "backdoor"),
        ("inconclusive", ("medium",), "inconclusive"),
        ("inconclusive", ("high",), "backdoor"),
        ("backdoor", (), "backdoor"),
        ("backdoor", ("medium",), "backdoor"),
    ],
)
def test_weighty_logic_changes_the_verdict(
    before: Verdict, severities: tuple[Severity, ...], after: Verdict
) -> None:
    decision = with_always(Decision(before, ("Behaviour.",), ()), logic(*severities))
    assert decision.verdict == after
    assert is_weighty(logic(*severities)) == bool({"high", "medium"} & set(severities))


def test_reasons_begin_with_what_weighs_and_end_with_what_was_not_examined() -> None:
    decision = with_always(CLEAN, logic("high", "low"))
    assert decision.reasons == (
        "Reason 0. Suspected.", "Nothing stands out.", "One body was not examined.",
    )  # fmt: skip
    assert [finding.message for finding in decision.findings] == [
        "Reason 0. Suspected.", "Reason 1. Suspected.",
    ]  # fmt: skip
    assert decision.findings[0].location == ("t", "out")


def test_a_trigger_and_a_class_are_told() -> None:
    found = LogicFinding("SODA202", "high", "confirmed", ("t",), "Reason.", "a red image", 7)
    decision = with_always(CLEAN, as_evidence(LogicEvidence((found,), 1, 5, ())))
    assert decision.reasons[0] == "Reason. Confirmed; a red image takes the decision."
    assert decision.findings[0].target_class == 7


def test_one_decision_under_several_rules_is_told_once() -> None:
    twice = tuple(
        LogicFinding(rule, "high", "suspected", ("t",), "Reason.")
        for rule in ("SODA202", "SODA204")
    )
    decision = with_always(CLEAN, as_evidence(LogicEvidence(twice, 1, 0, ())))
    assert decision.reasons == ("Reason. Suspected.", "Nothing stands out.")
    assert len(decision.findings) == 2


def test_what_is_unusual_about_the_file_leaves_the_verdict_alone() -> None:
    finding = FileFinding("SODA311", "medium", "Bytes nobody reads.", "graph")
    decision = with_file_findings(CLEAN, [finding])
    assert (decision.verdict, decision.reasons) == (CLEAN.verdict, CLEAN.reasons)
    assert decision.findings[0].location == ("graph",)
    assert (
        with_file_findings(CLEAN, [FileFinding("SODA311", "low", "m")]).findings[0].location == ()
    )


def test_findings_come_gravest_first_with_their_advice() -> None:
    severities: tuple[Severity, ...] = ("info", "high", "low", "high", "medium")
    findings = [
        Finding("SODA102", severity, None, None, None, None, str(number))
        for number, severity in enumerate(severities)
    ]
    ordered = in_order(findings)
    assert [finding.message for finding in ordered] == ["1", "3", "4", "2", "0"]
    assert {finding.advice for finding in ordered} == {RULES["SODA102"].advice}
