"""Tables of text reports, as rich renderables; printing them is the command line's."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from onnx_soda._answers import WeightChange
from onnx_soda._report.formats import cell_text
from onnx_soda._results import Finding
from onnx_soda._results import Table as EvidenceTable
from onnx_soda._words import printable

SEVERITY_STYLES = {"high": "bold red", "medium": "yellow", "low": "", "info": "dim"}
# Of a finding's nodes or tensors; JSON has all.
_SHOWN_PLACES = 6
# Rows of a table of evidence, and tensors that differ; JSON has all.
_SHOWN_ROWS = 12


def fact_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Return a table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(printable(value)))
    return table


def finding_table(findings: Sequence[Finding], title: str) -> Table:
    """Return a table of findings: rule, severity, message and place."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        show_header=False,
        pad_edge=False,
        padding=(0, 2),
    )
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        severity = Text(finding.severity, SEVERITY_STYLES[finding.severity])
        text = Text(printable(known_text(finding) + finding.message + place_text(finding)))
        table.add_row(finding.rule_id, severity, text)
    return table


def known_text(finding: Finding) -> str:
    """Return that a finding is accepted, and why; nothing where it is not."""
    known = finding.accepted
    return f"(accepted until {known.expires}: {known.reason}) " if known else ""


def place_text(finding: Finding) -> str:
    """Return where a finding is, in brackets; nothing where it is no place in the file."""
    if not finding.location:
        return ""
    more = len(finding.location) - _SHOWN_PLACES
    shown = ", ".join(finding.location[:_SHOWN_PLACES])
    return f" [{shown} and {more} more]" if more > 0 else f" [{shown}]"


def shape_text(shape: Sequence[int | str | None] | None) -> str:
    """Return a shape as people write it, with "?" for free sizes."""
    if shape is None:
        return "(...)"
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"


def indented(text: Text) -> Padding:
    """Return text moved in by two places."""
    return Padding(text, (0, 0, 0, 2))


def evidence_table(evidence: EvidenceTable) -> RenderableType:
    """Return a table of any detector's evidence, and its text below; the first rows of many."""
    table = Table(
        title=printable(evidence.title), title_justify="left", title_style="bold", box=None
    )
    for number, column in enumerate(evidence.columns):
        table.add_column(
            Text(printable(column.name)),
            justify="left" if column.kind == "text" else "right",
            overflow="fold",
            no_wrap=column.kind != "text" and number > 0,
        )
    for number, row in enumerate(evidence.rows[:_SHOWN_ROWS]):
        style = "bold red" if number in evidence.marked else ""
        cells = zip(row, evidence.columns, strict=True)
        table.add_row(
            *(Text(printable(cell_text(cell, column.kind)), style) for cell, column in cells)
        )
    more = len(evidence.rows) - _SHOWN_ROWS
    said = (
        f"{evidence.text} {more} more rows are left out here; JSON has them."
        if more > 0
        else (evidence.text)
    )
    return Group(table, indented(Text(printable(said), style="dim")))


def change_table(changes: Sequence[WeightChange]) -> RenderableType:
    """Return the tensors that differ; the first few of many."""
    if not changes:
        return Text("No tensor of the same name, shape and type differs.")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("tensor", overflow="fold")
    for column in ("values", "changed", "largest change", "of its largest value"):
        table.add_column(column, justify="right")
    for change in changes[:_SHOWN_ROWS]:
        table.add_row(
            Text(printable(change.name)),
            f"{change.size:,}",
            f"{change.changed:,}",
            f"{change.largest:.2g}",
            f"{change.relative:.1%}",
        )
    more = len(changes) - _SHOWN_ROWS
    return Group(table, Text(f"and {more} more")) if more > 0 else table
