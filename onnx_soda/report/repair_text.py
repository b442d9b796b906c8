"""A repair and a comparison of two models for people, as rich renderables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda.report.plain import class_label, printable
from onnx_soda.report.repair_rows import before_and_after, repair_facts
from onnx_soda.report.repair_schema import RepairSummary, WeightChange
from onnx_soda.report.text import fact_table

__all__ = ["change_table", "render_repair"]

_COLOURS = {
    "repaired": "green",
    "partly repaired": "yellow",
    "nothing to repair": "green",
    "inconclusive": "yellow",
    "failed": "red",
}
# Tensors shown; JSON has all.
_SHOWN = 12


def render_repair(
    summary: RepairSummary, file: str, names: Sequence[str] | None, written: str | None
) -> RenderableType:
    """Return a repair as something that a rich console can print.

    Args:
        summary: The repair.
        file: Name of the model.
        names: Class names.
        written: Name of the file that was written; None where none was.
    """
    headline = Text.assemble(
        (printable(file), "bold"),
        ": ",
        (summary.outcome.upper(), f"bold {_COLOURS[summary.outcome]}"),
    )
    parts: list[RenderableType] = [headline]
    if summary.victim_class is not None and summary.target_class is not None:
        pair = (class_label(c, names) for c in (summary.victim_class, summary.target_class))
        headline.append("\n  " + printable(" -> ".join(pair)), "bold")
        parts += [Text(), fact_table(repair_facts(summary))]
    if summary.before is not None and summary.after is not None:
        parts += [Text(), _before_and_after(summary), Text(), change_table(summary.changes)]
    parts += [Text(), Text(printable(summary.reason))]
    parts += [Text(printable(note)) for note in summary.notes]
    parts.append(Text(f"Written: {printable(written)}" if written else "Nothing was written."))
    return Group(*parts)


def _before_and_after(summary: RepairSummary) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    for row in before_and_after(summary):
        table.add_row(*row)
    return table


def change_table(changes: Sequence[WeightChange]) -> RenderableType:
    """Return the tensors that differ; the first few of many."""
    if not changes:
        return Text("No tensor of the same name, shape and type differs.")
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("tensor", overflow="fold")
    for column in ("values", "changed", "largest change", "of its largest value"):
        table.add_column(column, justify="right")
    for change in changes[:_SHOWN]:
        table.add_row(
            Text(printable(change.name)),
            f"{change.size:,}",
            f"{change.changed:,}",
            f"{change.largest:.2g}",
            f"{change.relative:.1%}",
        )
    more = len(changes) - _SHOWN
    return Group(table, Text(f"and {more} more")) if more > 0 else table
