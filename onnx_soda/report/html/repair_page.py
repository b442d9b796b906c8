"""A repair as one HTML page: what was measured before and after, on what images, which weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import version

from onnx_soda.report.html.common import Figure, draw_bars, galleries, labeller, render
from onnx_soda.report.plain import class_label
from onnx_soda.report.repair_rows import before_and_after, repair_facts
from onnx_soda.report.repair_schema import RepairSummary
from onnx_soda.report.schema import ModelInfo, ScanReport

__all__ = ["repair_to_html"]

# How the heading looks.
_MOODS = {
    "repaired": "clean",
    "nothing to repair": "clean",
    "partly repaired": "inconclusive",
    "inconclusive": "inconclusive",
    "failed": "backdoor",
}
# Classes in the plot; those that changed most.
_MOST_CLASSES = 43


def repair_to_html(
    summary: RepairSummary,
    scan: ScanReport | None,
    model: ModelInfo,
    names: Sequence[str] | None,
    written: str | None,
    command: str,
) -> str:
    """Return a repair as a page.

    Args:
        summary: The repair.
        scan: The scan that found the pair; None where it was given.
        model: The model as it was.
        names: Class names.
        written: Name of the file that was written; None where none was.
        command: How to repeat it, for people.
    """
    label = labeller(names)
    victim, target = summary.victim_class, summary.target_class
    concepts = scan.evidence.concepts if scan else None
    return render(
        "repair.html",
        summary=summary,
        model=model,
        version=version("onnx-soda"),
        mood=_MOODS[summary.outcome],
        pair=None if victim is None else f"{label(victim)} → {label(target)}",
        written=written,
        rows=before_and_after(summary),
        facts=repair_facts(summary) if victim is not None else [],
        galleries=list(galleries(concepts, label)) if concepts else [],
        figures=list(_figures(summary, names)),
        seconds=summary.seconds or {},
        command=command,
        label=label,
    )


def _figures(summary: RepairSummary, names: Sequence[str] | None) -> Iterator[Figure]:
    if summary.before is None or summary.after is None:
        return
    before, after = summary.before.accuracy_by_class, summary.after.accuracy_by_class
    change = {int(number): 100 * (after[number] - before[number]) for number in before}
    shown = sorted(change, key=lambda number: -abs(change[number]))[:_MOST_CLASSES]
    values = [change[number] for number in shown]
    text = (
        "How the accuracy on clean images of each class changed, the largest change first; from "
        f"{min(values):+.1f} to {max(values):+.1f}."
    )
    labels = [class_label(number, names) for number in shown]
    lower = [value < 0 for value in values]
    yield draw_bars("Change of clean accuracy, in points", text, labels, values, lower, None)
