"""A repair for people: what was done, and what was measured before and after."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnx_soda._answers import RepairSummary
from onnx_soda._report.tables import change_table, fact_table
from onnx_soda._words import class_label, printable

_COLOURS = {
    "repaired": "green",
    "partly repaired": "yellow",
    "nothing to repair": "green",
    "inconclusive": "yellow",
    "failed": "red",
}


def repair_facts(summary: RepairSummary) -> list[tuple[str, str]]:
    """Return how a model was repaired, as names and values; a row without a name goes on."""
    facts = [
        _what_was_trained(summary),
        *_also_repaired(summary),
        *([("taught by", f"{summary.teachers} reference models")] if summary.teachers else []),
        ("infected images by", summary.reconstruction),
        *(("", concept) for concept in summary.concepts),
    ]
    for name, counts in (("infected", summary.infected), ("clean", summary.clean_images)):
        if counts:
            train, proof = counts
            facts.append((f"{name} images", f"{train} to train and choose, {proof} to measure"))
    return facts


def _what_was_trained(summary: RepairSummary) -> tuple[str, str]:
    if not summary.neurons:  # a method that knows of none
        return "method", f"{summary.method}, scope {summary.scope}"
    return (
        "neurons",
        f"{summary.outstanding} of {summary.neurons} outstanding, scope {summary.scope}",
    )


def _also_repaired(summary: RepairSummary) -> list[tuple[str, str]]:
    if not summary.also_turned:
        return []
    return [("with the victim", f"class {', '.join(map(str, summary.also_turned))}, turned too")]


def before_and_after(summary: RepairSummary) -> list[tuple[str, str, str]]:
    """Return what was measured: its name, before the repair, after it."""
    rows = []
    before, after = summary.before, summary.after
    if before is not None and after is not None:
        worst = (min(one.accuracy_by_class.values()) for one in (before, after))
        rows = [
            _row("clean accuracy", before.accuracy, after.accuracy),
            _row("of the worst class", *worst),
            _row("reconstructed, to the target", before.target_rate, after.target_rate),
            _row("reconstructed, to their class", before.victim_rate, after.victim_rate),
        ]
        if before.tipped_rate is not None and after.tipped_rate is not None:
            name = "other classes so changed, to the victim"
            rows.append(_row(name, before.tipped_rate, after.tipped_rate))
    first, second = summary.triggers_before, summary.triggers_after
    if first is not None and second is not None:
        name = f"{first.images} trigger images, to the target"
        rows.append(_row(name, first.target_rate, second.target_rate))
        rows.append(_row("the same, to the victim", first.victim_rate, second.victim_rate))
    if summary.agreement is not None:
        rows.append(("same answer to clean images", "", f"{summary.agreement:.1%}"))
    for one in summary.flows:
        name = f"{one.victim_class} -> {one.target_class} stands out against the references by"
        rows.append((name, f"{one.before:+.2f}", f"{one.after:+.2f}"))
    if summary.rescan is not None:
        named = (f"{victim} -> {target}" for victim, target in summary.rescan_pairs)
        rows.append(("new scan", "", " ".join((summary.rescan, *named))))
    return rows


def _row(name: str, before: float, after: float) -> tuple[str, str, str]:
    return name, f"{before:.1%}", f"{after:.1%}"


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
