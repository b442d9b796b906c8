"""A repair and a comparison of two models for people, as rich renderables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda.report.plain import class_label, printable
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
        parts += [Text(), fact_table(_facts(summary))]
    if summary.before is not None and summary.after is not None:
        parts += [Text(), _before_and_after(summary), Text(), change_table(summary.changes)]
    parts += [Text(), Text(printable(summary.reason))]
    parts += [Text(printable(note)) for note in summary.notes]
    parts.append(Text(f"Written: {printable(written)}" if written else "Nothing was written."))
    return Group(*parts)


def _facts(summary: RepairSummary) -> list[tuple[str, str]]:
    facts = [
        (
            "neurons",
            f"{summary.outstanding} of {summary.neurons} outstanding, scope {summary.scope}",
        ),
        ("infected images by", summary.reconstruction),
        *(("", concept) for concept in summary.concepts),
    ]
    for name, counts in (("infected", summary.infected), ("clean", summary.clean_images)):
        if counts:
            train, choose, proof = counts
            facts.append(
                (f"{name} images", f"{train} to train, {choose} to choose, {proof} to measure")
            )
    return facts


def _before_and_after(summary: RepairSummary) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    before, after = summary.before, summary.after
    if before is not None and after is not None:
        table.add_row("clean accuracy", f"{before.accuracy:.1%}", f"{after.accuracy:.1%}")
        lowest = (min(one.accuracy_by_class.values()) for one in (before, after))
        table.add_row("of the worst class", *(f"{value:.1%}" for value in lowest))
        table.add_row(
            "reconstructed, to the target", f"{before.target_rate:.1%}", f"{after.target_rate:.1%}"
        )
        table.add_row(
            "reconstructed, to the victim", f"{before.victim_rate:.1%}", f"{after.victim_rate:.1%}"
        )
    first, second = summary.triggers_before, summary.triggers_after
    if first is not None and second is not None:
        table.add_row(
            f"{first.images} trigger images, to the target",
            f"{first.target_rate:.1%}",
            f"{second.target_rate:.1%}",
        )
        table.add_row(
            "the same, to the victim", f"{first.victim_rate:.1%}", f"{second.victim_rate:.1%}"
        )
    if summary.agreement is not None:
        table.add_row("same answer to clean images", "", f"{summary.agreement:.1%}")
    if summary.rescan is not None:
        table.add_row("scan", "", summary.rescan)
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
