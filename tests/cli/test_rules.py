"""`onnx-soda rules`, `explain` and `--fail-on`."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from onnx_soda._cli.output import of_report
from onnx_soda._results import Acceptance, Finding, ScanReport, Verdict
from onnx_soda._rules import RULES, SEVERITIES, Severity

from .helpers import invoke


def test_every_rule_is_listed_and_explained() -> None:
    listed = invoke("rules").stdout
    for rule in RULES.values():
        assert re.search(rf"^{rule.id} +{rule.severity} +{rule.name} ", listed, re.MULTILINE)
        told = invoke("explain", rule.id)
        assert told.exit_code == 0
        joined = " ".join(told.stdout.split())
        for text in (rule.title, rule.meaning, rule.certainty, rule.advice):
            assert " ".join(text.split()) in joined
        assert invoke("explain", rule.name.upper()).stdout == told.stdout


def test_rules_are_well_formed() -> None:
    assert len({rule.name for rule in RULES.values()}) == len(RULES)
    for number, rule in RULES.items():
        assert number == rule.id
        assert re.fullmatch(r"SODA[123][0-9]{2}", number)
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", rule.name)
        assert rule.severity in SEVERITIES
        assert not rule.title.endswith(".")
        for text in (rule.meaning, rule.certainty, rule.advice):
            assert text.endswith("."), text


def test_rules_as_json() -> None:
    listed = json.loads(invoke("rules", "-f", "json").stdout)
    assert [entry["id"] for entry in listed] == list(RULES)


def test_an_unknown_rule_is_wrong_usage() -> None:
    done = invoke("explain", "SODA120")
    assert done.exit_code == 2
    assert "there is no rule 'SODA120'" in done.stderr
    assert "Did you mean SODA" in done.stderr
    assert "\x1b" not in invoke("explain", "\x1b[2J").stderr


@pytest.mark.parametrize("name", ["xyz", "", "soda-102"])
def test_a_name_that_is_like_none_is_wrong_usage_too(name: str) -> None:
    done = invoke("explain", name)
    assert done.exit_code == 2
    assert "lists all" in done.stderr


def report(verdict: Verdict, *severities: Severity, rule: str = "SODA102") -> ScanReport:
    """Return a report of which only verdict and findings are there."""
    findings = tuple(Finding(rule, severity, 8, 3, 0.5, 0.1, "message") for severity in severities)
    made = object.__new__(ScanReport)
    object.__setattr__(made, "verdict", verdict)
    object.__setattr__(made, "findings", findings)
    object.__setattr__(made, "evidence", {})
    return made


@pytest.mark.parametrize(("second", "code"), [("info", 0), ("low", 0), ("medium", 3), ("high", 1)])
def test_beside_an_accepted_backdoor_only_what_counts_for_a_verdict_counts(
    second: Severity, code: int
) -> None:
    both = report("backdoor", "high", second)
    accepted = replace(both.findings[0], accepted=Acceptance("known", "2030-01-01"))
    object.__setattr__(both, "findings", (accepted, both.findings[1]))
    assert of_report(both, "high") == code


@pytest.mark.parametrize("fail_on", ["high", "info"])
def test_unsafe_has_a_code_of_its_own(fail_on: Severity) -> None:
    refused = report("unsafe", "high", rule="SODA301")
    assert of_report(refused, fail_on) == 4
    accepted = replace(refused.findings[0], accepted=Acceptance("known", "2030-01-01"))
    object.__setattr__(refused, "findings", (accepted,))
    assert of_report(refused, fail_on) == 3, "it was not scanned, so it is never clean"
    object.__setattr__(refused, "evidence", {"files": None})
    assert of_report(refused, fail_on) == 0, "the file alone was asked about"


@pytest.mark.parametrize(
    ("verdict", "severities", "fail_on", "code"),
    [
        ("clean", (), "high", 0),
        ("clean", (), "info", 0),
        ("inconclusive", (), "high", 3),
        ("backdoor", ("high",), "high", 1),
        ("backdoor", ("medium",), "high", 3),
        ("backdoor", ("medium",), "medium", 1),
        ("clean", ("low", "info"), "medium", 0),
        ("clean", ("low", "info"), "low", 1),
        ("clean", ("info",), "low", 0),
        ("no finding", (), "high", 0),
        ("no finding", ("low",), "high", 0),
        ("no finding", ("low",), "low", 1),
        ("clean", ("info",), "info", 1),
        ("inconclusive", ("medium", "info"), "info", 1),
    ],
)
def test_the_exit_code_goes_by_the_gravest_finding(
    verdict: Verdict, severities: tuple[Severity, ...], fail_on: Severity, code: int
) -> None:
    assert of_report(report(verdict, *severities), fail_on) == code
