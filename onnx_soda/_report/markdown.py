"""Markdown for pull-request comments: one table, and the evidence folded away.

What comes from a model or data file is shown as text and nothing else: no markup, no HTML, no
links, and nobody is mentioned.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from onnx_soda._report.words import class_label, printable
from onnx_soda._results import Finding, Outcome, ScanFailure, ScanReport
from onnx_soda._rules import SEVERITIES

_MARKUP = re.compile(r"([\\`*_{}\[\]()+\-.!|~])")
# GitHub and GitLab make links of these wherever they stand; an invisible character stops it.
_LINKED = re.compile(r"([@#]|://|www(?=\\?\.))", re.IGNORECASE)
_BREAK = "\u200b"


def to_markdown(outcomes: Sequence[Outcome], places: Sequence[str]) -> str:
    """Return the outcomes as GitHub's and GitLab's Markdown.

    Args:
        outcomes: Scans, and models that could not be scanned.
        places: What to call each.
    """
    lines = ["| model | verdict | gravest finding | pair |", "|---|---|---|---|"]
    named = list(zip(outcomes, map(_inert, places), strict=True))
    lines += [_row(outcome, place) for outcome, place in named]
    for outcome, place in named:
        lines += ["", *_details(outcome, place)]
    return "\n".join(lines) + "\n"


def _inert(text: str) -> str:
    shown = _MARKUP.sub(r"\\\1", html.escape(printable(text)))
    return _LINKED.sub(rf"\1{_BREAK}", shown)


def _row(outcome: Outcome, place: str) -> str:
    if isinstance(outcome, ScanFailure):
        return f"| {place} | could not scan | {outcome.rule_id or ''} | |"
    worst = min(outcome.findings, key=lambda f: SEVERITIES.index(f.severity), default=None)
    gravest = f"{worst.rule_id} {worst.severity}" if worst else ""
    return f"| {place} | **{outcome.verdict}** | {gravest} | {_pair(outcome, worst)} |"


def _pair(report: ScanReport, finding: Finding | None) -> str:
    if finding is None or finding.target_class is None:
        return ""
    names = report.dataset.class_names if report.dataset else None
    ends = (finding.victim_class, finding.target_class)
    shown = ("?" if end is None else _inert(class_label(end, names)) for end in ends)
    return " → ".join(shown)


def _details(outcome: Outcome, place: str) -> Iterator[str]:
    if isinstance(outcome, ScanFailure):
        yield f"**{place}** {_inert(outcome.message)}. {_inert(outcome.advice)}"
        return
    yield f"<details><summary>{place}: evidence</summary>"
    yield ""
    for finding in outcome.findings:
        known = f"(accepted: {_inert(finding.accepted.reason)}) " if finding.accepted else ""
        yield f"- **{finding.rule_id} {finding.severity}** {known}{_inert(finding.message)}"
    said = {finding.message for finding in outcome.findings}
    for reason in outcome.reasons:
        if reason not in said:
            yield f"- {_inert(reason)}"
    data = outcome.dataset
    yield ""
    yield (
        f"Model sha256 `{_inert(outcome.model.sha256)}`, "
        + (
            f"{data.samples} clean images of {data.classes} classes, accuracy {data.accuracy:.1%}, "
            if data
            else "no clean images, "
        )
        + f"onnx-soda {_inert(outcome.tool.version)}, seed {outcome.environment.seed}."
    )
    yield ""
    yield "</details>"
