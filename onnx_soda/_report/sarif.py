"""SARIF 2.1.0 for code scanning, in the form that GitHub accepts.

GitHub asks for more than the standard (docs.github.com, "SARIF support for code scanning"). Every
result has a location with a region, in a file named relative to the repository. Rules have help.
Fingerprints are given, since GitHub can only make its own for text. One result against these rules,
and GitHub refuses the whole file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import PurePath
from typing import Any, ClassVar
from urllib.parse import quote

from onnx_soda._report.formats import Context, Format, Scanned, cell_text, skipped_text
from onnx_soda._results import Finding, Outcome, ScanFailure, ScanReport
from onnx_soda._rules import ATLAS_VERSION, RULES, TECHNIQUES, Rule, Severity
from onnx_soda._words import printable

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_TAXONOMY, _ATLAS = "MITRE ATLAS", "https://atlas.mitre.org"
_LEVELS: dict[Severity, str] = {"high": "error", "medium": "warning", "low": "note", "info": "note"}
# GitHub: over 9.0 critical, from 7.0 high, from 4.0 medium, else low.
_SECURITY: dict[Severity, str] = {"high": "8.0", "medium": "5.0", "low": "2.0", "info": "0.0"}


class SarifFormat(Format):
    """The report for code scanning."""

    name: ClassVar[str] = "sarif"

    def render(self, scanned: Sequence[Scanned], context: Context) -> str:
        """See `Format.render`."""
        outcomes, places = [one.outcome for one in scanned], [one.place for one in scanned]
        return to_sarif(outcomes, places, context.skipped)


def to_sarif(
    outcomes: Sequence[Outcome], places: Sequence[str] | None = None, skipped: Sequence[str] = ()
) -> str:
    """Return one run with the findings of all models.

    Args:
        outcomes: Scans, and models that could not be scanned. A file refused by a rule is a
            result; other failures are notifications of the tool, and so are the reasons of
            inconclusive scans.
        places: Path of each model, relative to the repository; the names of the files where not
            given.
        skipped: Files that were not looked at; a notification tells of them.
    """
    uris = [_uri(place) for place in places or [_file(outcome) for outcome in outcomes]]
    pairs = list(zip(outcomes, uris, strict=True))
    rules = _rules(outcomes)
    run = {
        "tool": {"driver": _driver(rules)},
        "taxonomies": [_taxonomy()],
        "automationDetails": {"id": "onnx-soda/"},
        "columnKind": "unicodeCodePoints",
        "artifacts": [_artifact(outcome, uri) for outcome, uri in pairs],
        "results": [
            {**result, "ruleIndex": list(rules).index(result["ruleId"])}
            for outcome, uri in pairs
            for result in _results(outcome, uri)
        ],
        "invocations": [
            {
                "executionSuccessful": not any(isinstance(one, ScanFailure) for one in outcomes),
                **_ended(outcomes),
                "toolExecutionNotifications": [
                    *(note for outcome, uri in pairs for note in _notes(outcome, uri)),
                    *_skipped_notes(skipped),
                ],
            }
        ],
    }
    document = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _ended(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """Return when the last scan ended, where that is known."""
    times = [one.created for one in outcomes if isinstance(one, ScanReport) and one.created]
    return {"endTimeUtc": max(times)} if times else {}


def _file(outcome: Outcome) -> str:
    return outcome.file if isinstance(outcome, ScanFailure) else outcome.model.file


def _uri(place: str) -> str:
    """Return a path as a relative URI; what leads out of the repository by its name alone."""
    path = PurePath(place)
    inside = not path.is_absolute() and ".." not in path.parts
    return quote(path.as_posix() if inside else path.name, safe="/")


def _rules(outcomes: Sequence[Outcome]) -> dict[str, Rule]:
    """Return all rules by id; those of other packages as far as findings tell of them."""
    rules = dict(RULES)
    for outcome in outcomes:
        for finding in outcome.findings if isinstance(outcome, ScanReport) else ():
            known = Rule(
                finding.rule_id,
                finding.rule_id.lower(),
                finding.severity,
                finding.message,
                finding.message,
                "",
                finding.advice,
            )
            rules.setdefault(finding.rule_id, known)
    return rules


def _driver(rules: Mapping[str, Rule]) -> dict[str, Any]:
    return {
        "name": "onnx-soda",
        "version": version("onnx-soda"),
        "rules": [_rule(rule) for rule in rules.values()],
        "supportedTaxonomies": [{"name": _TAXONOMY, "index": 0}],
    }


def _taxonomy() -> dict[str, Any]:
    """Return the techniques that rules refer to, as a taxonomy."""
    return {
        "name": _TAXONOMY,
        "version": ATLAS_VERSION,
        "organization": "MITRE",
        "informationUri": _ATLAS,
        "shortDescription": {"text": "What attackers do to systems with machine learning."},
        "isComprehensive": False,
        "taxa": [
            {
                "id": identifier,
                "name": name,
                "helpUri": f"{_ATLAS}/techniques/{identifier}",
                "shortDescription": {"text": name},
            }
            for identifier, name in TECHNIQUES.items()
        ],
    }


def _relationship(technique: str) -> dict[str, Any]:
    component = {"name": _TAXONOMY, "index": 0}
    place = list(TECHNIQUES).index(technique)
    target = {"id": technique, "index": place, "toolComponent": component}
    return {"target": target, "kinds": ["relevant"]}


def _rule(rule: Rule) -> dict[str, Any]:
    text = f"{rule.meaning}\n\n{rule.certainty}\n\n{rule.advice}"
    return {
        "id": rule.id,
        "name": "".join(word.title() for word in rule.name.split("-")),
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.meaning},
        "help": {"text": text, "markdown": text},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
        "properties": {
            "tags": ["security", "machine-learning"],
            "precision": "medium",
            "security-severity": _SECURITY[rule.severity],
        },
        "relationships": [_relationship(one) for one in rule.techniques if one in TECHNIQUES],
    }


def _artifact(outcome: Outcome, uri: str) -> dict[str, Any]:
    artifact: dict[str, Any] = {"location": _location(uri)}
    if isinstance(outcome, ScanReport):
        artifact["hashes"] = {"sha-256": outcome.model.sha256}
        artifact["properties"] = {"verdict": outcome.verdict, "evidence": _evidence(outcome)}
    return artifact


def _evidence(report: ScanReport) -> dict[str, Any]:
    """Return what each detector saw: its verdict, and its tables as lines."""
    return {
        printable(name): {
            "verdict": evidence.verdict,
            "tables": {
                printable(table.title): [
                    "; ".join(
                        printable(f"{column.name} {cell_text(cell, column.kind)}")
                        for cell, column in zip(row, table.columns, strict=True)
                        if cell is not None
                    )
                    for row in table.rows
                ]
                for table in evidence.tables
            },
        }
        for name, evidence in report.evidence.items()
    }


def _location(uri: str) -> dict[str, str]:
    return {"uri": uri, "uriBaseId": "%SRCROOT%"}


def _results(outcome: Outcome, uri: str) -> Iterator[dict[str, Any]]:
    if isinstance(outcome, ScanReport):
        for finding in outcome.findings:
            yield _result(finding, uri, outcome.model.sha256)
    elif outcome.rule_id in RULES:
        rule = RULES[outcome.rule_id]
        refused = Finding(rule.id, rule.severity, None, None, None, None, outcome.message)
        yield _result(refused, uri, uri)


def _result(finding: Finding, uri: str, subject: str) -> dict[str, Any]:
    place: dict[str, Any] = {
        # A model has no lines; GitHub wants a region all the same.
        "physicalLocation": {"artifactLocation": _location(uri), "region": {"startLine": 1}}
    }
    if finding.location:
        place["logicalLocations"] = [
            {"fullyQualifiedName": printable(name), "kind": "resource"} for name in finding.location
        ]
    known = finding.accepted
    suppressed = [{"kind": "external", "justification": printable(known.reason)}] if known else []
    return {
        "ruleId": finding.rule_id,
        "level": _LEVELS[finding.severity],
        "message": {"text": printable(finding.message)},
        "locations": [place],
        "suppressions": suppressed,
        "partialFingerprints": {"primaryLocationLineHash": _fingerprint(finding, subject)},
        "properties": {
            "severity": finding.severity,
            "victim_class": finding.victim_class,
            "target_class": finding.target_class,
            "score": finding.score,
        },
    }


def _fingerprint(finding: Finding, subject: str) -> str:
    """Return what stays the same as long as the finding does: model, rule, classes, place."""
    parts = (
        subject,
        finding.rule_id,
        str(finding.victim_class),
        str(finding.target_class),
        *finding.location,
    )
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def _skipped_notes(skipped: Sequence[str]) -> Iterator[dict[str, Any]]:
    if skipped:
        yield {"level": "note", "message": {"text": printable(skipped_text(skipped))}}


def _notes(outcome: Outcome, uri: str) -> Iterator[dict[str, Any]]:
    place = [{"physicalLocation": {"artifactLocation": _location(uri)}}]
    if isinstance(outcome, ScanFailure):
        text = printable(f"{outcome.message}. {outcome.advice}".strip())
        yield {"level": "error", "message": {"text": text}, "locations": place}
    elif outcome.verdict == "inconclusive":
        for reason in outcome.reasons:
            text = printable(f"inconclusive: {reason}")
            yield {"level": "warning", "message": {"text": text}, "locations": place}
