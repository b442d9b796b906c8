"""`onnx-soda rules`, `explain` and `--fail-on`."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from onnx_soda._cli.output import of_report
from onnx_soda._results import Acceptance, Finding, ScanReport, Verdict
from onnx_soda._rules import RULES, SEVERITIES, Severity

from .helpers import invoke

ROOT = Path(__file__).parents[2]


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
    assert "there is no rule and no page 'SODA120'" in done.stderr
    assert "Did you mean SODA" in done.stderr
    assert "\x1b" not in invoke("explain", "\x1b[2J").stderr


@pytest.mark.parametrize("name", ["xyz", "", "soda-102"])
def test_a_name_that_is_like_none_is_wrong_usage_too(name: str) -> None:
    done = invoke("explain", name)
    assert done.exit_code == 2
    assert "lists all" in done.stderr


@pytest.mark.parametrize("asked", ["detection", "Detection.md", "docs/detection.md"])
def test_a_page_is_shown_by_its_name(asked: str) -> None:
    done = invoke("explain", asked)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == (ROOT / "docs/detection.md").read_text(encoding="utf-8")


def said_by_the_package() -> Iterator[str]:
    """Yield all that the package may say: its strings, without comments and docstrings."""
    for folder in ("onnx_soda", "cli", "converters"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            quiet = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and id(node) not in quiet:
                    yield node.value if isinstance(node.value, str) else ""
        for path in (ROOT / folder).rglob("*.html"):
            yield path.read_text(encoding="utf-8")


def test_what_messages_name_can_be_shown_by_whoever_has_the_package_alone() -> None:
    said = list(said_by_the_package())
    assert not [text for text in said if re.search(r"docs/[\w-]+\.md", text)]
    named = {
        name for text in said for name in re.findall(r"onnx-soda explain ([a-z-]+|SODA\d+)", text)
    }
    assert {"detection", "paper-statistic", "graph-logic", "bridge"} <= named
    for name in named:
        assert invoke("explain", name).exit_code == 0, name


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
