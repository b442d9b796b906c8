"""JUnit XML, which continuous integration shows: a suite per model, a case per kind of question.

The form is that of Jenkins' junit plug-in (junit-10.xsd), as GitLab reads it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar
from xml.etree import ElementTree as ET

from onnx_soda._report.formats import Context, Format, Scanned
from onnx_soda._results import FILES, Finding, Outcome, ScanFailure, ScanReport
from onnx_soda._rules import SEVERITIES, Severity
from onnx_soda._words import printable

# Cases, by how the ids of their rules begin; rules of other packages' detectors are behaviour.
_FAMILIES = {"SODA1": "behaviour", "SODA2": "graph logic", "SODA3": "file safety"}


class JunitFormat(Format):
    """The report for continuous integration."""

    name: ClassVar[str] = "junit"

    def render(self, scanned: Sequence[Scanned], context: Context) -> str:
        """See `Format.render`."""
        outcomes, places = [one.outcome for one in scanned], [one.place for one in scanned]
        return to_junit(outcomes, places, context.fail_on, context.skipped)


def to_junit(
    outcomes: Sequence[Outcome],
    places: Sequence[str],
    fail_on: Severity = "high",
    skipped: Sequence[str] = (),
) -> str:
    """Return a suite for each model.

    Args:
        outcomes: Scans, and models that could not be scanned; the latter are errors.
        places: What to call each.
        fail_on: Findings of this severity or a worse one fail their case. The case of
            behaviour is skipped, which is no pass, where it was not examined.
        skipped: Files that were not looked at; each has a case that is skipped.
    """
    root = ET.Element("testsuites", name="onnx-soda")
    for outcome, place in zip(outcomes, places, strict=True):
        if isinstance(outcome, ScanFailure):
            root.append(_failed(outcome, place))
        else:
            root.append(_scanned(outcome, place, SEVERITIES[: SEVERITIES.index(fail_on) + 1]))
    if skipped:
        root.append(_suite("skipped files", list(map(_skipped, skipped)), 0))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(file: str, cases: Sequence[ET.Element], seconds: float) -> ET.Element:
    suite = ET.Element("testsuite", name=printable(file), tests=str(len(cases)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", f"{seconds:.3f}")
    suite.extend(cases)
    return suite


def _case(file: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=printable(file), name=name)


def _skipped(file: str) -> ET.Element:
    case = _case(file, "file safety")
    ET.SubElement(case, "skipped", message="The file is of no known kind.")
    return case


def _failed(failure: ScanFailure, place: str) -> ET.Element:
    case = _case(place, "scan")
    error = ET.SubElement(case, "error", message=printable(failure.message))
    error.set("type", failure.rule_id or "could not scan")
    error.text = printable(failure.advice)
    return _suite(place, [case], 0)


def _scanned(report: ScanReport, place: str, failing_severities: Sequence[Severity]) -> ET.Element:
    cases = []
    for name in _FAMILIES.values():
        own = [finding for finding in report.findings if _family(finding) == name]
        case = _case(place, name)
        failing = [
            one for one in own if one.severity in failing_severities and one.accepted is None
        ]
        if failing:
            failure = ET.SubElement(case, "failure", message=printable(failing[0].message))
            failure.set("type", failing[0].rule_id)
            failure.text = "\n".join(map(_line, failing))
        elif name in _open_cases(report):
            ET.SubElement(case, "skipped", message=printable(_left_open(report)))
        lesser = [finding for finding in own if finding not in failing]
        if lesser:
            ET.SubElement(case, "system-out").text = "\n".join(map(_line, lesser))
        cases.append(case)
    return _suite(place, cases, report.timing.get("total", 0.0))


def _family(finding: Finding) -> str:
    return _FAMILIES.get(finding.rule_id[:5], "behaviour")


def _open_cases(report: ScanReport) -> tuple[str, ...]:
    """Return the cases that nothing can be said of."""
    if report.method == FILES:
        return ("behaviour", "graph logic")
    return ("behaviour",) if _left_open(report) else ()


def _left_open(report: ScanReport) -> str:
    """Say why nothing can be said about the model's behaviour; "" where something can."""
    if report.method == FILES:
        return "The file alone was looked at."
    if report.verdict == "inconclusive":
        return "; ".join(report.reasons)
    return "" if report.coverage.samples else "No clean images were shown to the model."


def _line(finding: Finding) -> str:
    known = f" (accepted: {finding.accepted.reason})" if finding.accepted else ""
    return printable(f"{finding.rule_id} {finding.severity}{known}: {finding.message}")
