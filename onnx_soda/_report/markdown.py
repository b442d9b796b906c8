"""Markdown for pull-request comments: one table, and the evidence folded away.

What comes from a model or data file is shown as text and nothing else: no markup, no HTML, no
links, and nobody is mentioned.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from typing import ClassVar

from onnx_soda._report.formats import (
    Context,
    Format,
    Scanned,
    cell_text,
    evidence_in_order,
    pair_text,
    skipped_text,
    worst_finding,
)
from onnx_soda._report.guidance import rate_sentences, score_sentences
from onnx_soda._results import DatasetInfo, Evidence, Outcome, ScanFailure
from onnx_soda._words import printable

_MARKUP = re.compile(r"([\\`*_{}\[\]()+\-.!|~])")
# GitHub and GitLab make links of these wherever they stand; an invisible character stops it.
_LINKED = re.compile(r"([@#]|://|www(?=\\?\.))", re.IGNORECASE)
_BREAK = "\u200b"
# Rows of a table of evidence; JSON has all.
_SHOWN_ROWS = 12


class MarkdownFormat(Format):
    """The report for comments on pull requests."""

    name: ClassVar[str] = "markdown"

    def render(self, scanned: Sequence[Scanned], context: Context) -> str:
        """See `Format.render`."""
        outcomes, places = [one.outcome for one in scanned], [one.place for one in scanned]
        return to_markdown(outcomes, places, context.skipped)


def to_markdown(
    outcomes: Sequence[Outcome], places: Sequence[str], skipped: Sequence[str] = ()
) -> str:
    """Return the outcomes as GitHub's and GitLab's Markdown.

    Args:
        outcomes: Scans, and models that could not be scanned.
        places: What to call each.
        skipped: Files that were not looked at.
    """
    lines = ["| model | verdict | worst finding | pair |", "|---|---|---|---|"]
    named = list(zip(outcomes, map(_inert, places), strict=True))
    lines += [_row(outcome, place) for outcome, place in named]
    if skipped:
        lines += ["", _inert(skipped_text(skipped))]
    for outcome, place in named:
        lines += ["", *_details(outcome, place)]
    return "\n".join(lines) + "\n"


def _inert(text: str) -> str:
    shown = _MARKUP.sub(r"\\\1", html.escape(printable(text)))
    return _LINKED.sub(rf"\1{_BREAK}", shown)


def _row(outcome: Outcome, place: str) -> str:
    if isinstance(outcome, ScanFailure):
        return f"| {place} | could not scan | {outcome.rule_id or ''} | |"
    worst = worst_finding(outcome)
    named = f"{worst.rule_id} {worst.severity}" if worst else ""
    pair = _inert(pair_text(outcome, worst, " → ")) if worst else ""
    return f"| {place} | **{outcome.verdict}** | {named} | {pair} |"


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
    yield from (
        f"- {_inert(told)}" for told in (*score_sentences(outcome), *rate_sentences(outcome))
    )
    for evidence in evidence_in_order(outcome):
        yield from _tables(evidence)
        for drawing in evidence.drawings:
            yield f"- {_inert(drawing.title)}: {_inert(drawing.text)}"
    data, made = outcome.dataset, f"{_inert(outcome.created)}, " if outcome.created else ""
    yield ""
    yield (
        f"Model sha256 `{_inert(outcome.model.sha256)}`, "
        + (
            f"{data.samples} clean images of {data.classes} classes, accuracy {data.accuracy:.1%}, "
            f"{_sized(data)}"
            if data
            else "no clean images, "
        )
        + f"onnx-soda {_inert(outcome.tool.version)}, {made}seed {outcome.environment.seed}."
    )
    yield ""
    yield "</details>"


def _sized(data: DatasetInfo) -> str:
    """Return the size of the images, where the model takes any."""
    size = data.preprocessing.get("size")
    return f"brought to {size[0]} x {size[1]} pixels, " if size else ""


def _tables(evidence: Evidence) -> Iterator[str]:
    """Yield the tables of a detector's evidence, a line for each row; the first rows of many."""
    for table in evidence.tables:
        if not table.rows:
            continue
        yield ""
        yield f"**{_inert(table.title)}**"
        yield ""
        for row in table.rows[:_SHOWN_ROWS]:
            cells = (
                f"{_inert(column.name)} {_inert(cell_text(cell, column.kind))}"
                for cell, column in zip(row, table.columns, strict=True)
                if cell is not None
            )
            yield f"- {'; '.join(cells)}"
        more = len(table.rows) - _SHOWN_ROWS
        if more > 0:
            yield f"- and {more} more"
