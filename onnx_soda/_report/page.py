"""A report as one HTML page: no scripts, no requests, everything escaped.

Only the page of a fleet (`fleet_to_html`) has a script, which the policy of that page names by its
digest.

What comes from a model or a data file is made printable first (`printable`) and escaped by
Jinja; pictures are taken only as PNG data. The page's own policy forbids it everything but
images of its own and its style.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnx_soda._answers import FlowProof, RepairAnswer, RepairSummary
from onnx_soda._report.formats import cell_text, class_names, evidence_in_order
from onnx_soda._report.guidance import next_steps, rate_sentences, score_sentences
from onnx_soda._report.plots import draw, sketch
from onnx_soda._report.repair_text import before_and_after, repair_facts
from onnx_soda._results import FILES, Chart, Drawing, Evidence, ScanReport, Table
from onnx_soda._rules import RULE_UNLIKE, RULES, technique_labels
from onnx_soda._verdict import BESIDE
from onnx_soda._words import class_label, pair_label, printable

_PNG = "data:image/png;base64,"
# How the heading of a repair looks.
_MOODS = {
    "repaired": "clean",
    "nothing to repair": "clean",
    "partly repaired": "inconclusive",
    "inconclusive": "inconclusive",
    "failed": "backdoor",
}
# What a look at a file alone comes to.
_FILE_SENTENCES = {
    "unsafe": "Something in the file is dangerous. It was not scanned.",
    "inconclusive": "The file holds something that a person has to look at, or that was not read.",
    "no finding": "Nothing in the file is known to be dangerous. It was not scanned for backdoors.",
}
# Classes in the plot of a repair; those that changed most.
_MOST_CLASSES = 43


@dataclass(frozen=True)
class Figure:
    """A plot with its heading and what it says."""

    title: str
    caption: str
    svg: Markup


def to_html(report: ScanReport, command: str) -> str:
    """Return a report as a page.

    Args:
        report: The scan.
        command: How to repeat it, for people.
    """
    evidence = evidence_in_order(report)
    # The paper's statistic says little by itself: it is folded away where it does not decide.
    beside = [one for one in evidence if one.detector in BESIDE and one.detector != report.method]
    shown = [one for one in evidence if one not in beside]
    return _render(
        "report.html",
        report=report,
        command=command,
        rules=RULES,
        techniques=technique_labels,
        sentence=_sentence(report),
        scored=any(one.score is not None for one in report.findings),
        scores=score_sentences(report),
        rates=rate_sentences(report),
        steps=next_steps(report),
        galleries=[gallery for one in shown for gallery in one.galleries],
        tables=_tables(shown),
        figures=[
            *(_sketch(drawing) for one in shown for drawing in one.drawings),
            *(_figure(chart) for one in shown for chart in one.charts),
        ],
        folded=[
            (one.title, one.notes, _tables([one]), [_figure(chart) for chart in one.charts])
            for one in beside
            if one.tables or one.charts
        ],
        unseen=list(_unseen(report, evidence)),
    )


def _tables(evidence: Sequence[Evidence]) -> list[Table]:
    return [table for one in evidence for table in one.tables if table.rows]


def repair_to_html(answer: RepairAnswer, written: str | None, command: str) -> str:
    """Return a repair as a page.

    Args:
        answer: The repair.
        written: Name of the file that was written; None where none was.
        command: How to repeat it, for people.
    """
    summary, names = answer.summary, answer.class_names
    victim, target = summary.victim_class, summary.target_class
    evidence = evidence_in_order(answer.scan) if answer.scan else []
    return _render(
        "repair.html",
        summary=summary,
        model=answer.model,
        version=version("onnx-soda"),
        mood=_MOODS[summary.outcome],
        pair=None if target is None else pair_label(victim, target, names, " → "),
        written=written,
        rows=before_and_after(summary),
        facts=repair_facts(summary) if victim is not None else [],
        galleries=[gallery for one in evidence for gallery in one.galleries],
        figures=list(_repair_figures(summary, answer.class_names)),
        seconds=summary.seconds or {},
        command=command,
    )


def fleet_to_html(
    rows: Sequence[Any],
    counts: Mapping[str, int],
    tasks: Mapping[str, Mapping[str, int]],
    folder: str,
) -> str:
    """Return the results of a fleet as a page; without scripts it shows all rows.

    Args:
        rows: A row for each model, the worst first.
        counts: Number of models by verdict.
        tasks: The same by task.
        folder: Of the results, for commands.
    """
    templates = files("onnx_soda._report").joinpath("templates")
    script = templates.joinpath("fleet.js").read_text("utf-8")
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return _render(
        "fleet.html",
        rows=rows,
        counts=counts,
        tasks=tasks,
        folder=folder,
        version=version("onnx-soda"),
        script=Markup(script),  # noqa: S704 - a file of this package
        digest=f"sha256-{digest}",
    )


def _render(template: str, **content: Any) -> str:
    """Fill a template; what is text in it is made printable and escaped."""
    environment = Environment(
        loader=PackageLoader("onnx_soda._report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    helpers = {"picture": _picture, "cell": cell_text, "commands": _commands}
    return environment.get_template(template).render(**helpers, **content)


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _commands(text: str) -> Markup:
    """Return words, escaped, with what stands in backquotes as code."""
    parts = enumerate(printable(text).split("`"))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in parts
    )


def _picture(uri: str) -> str:
    """Return a picture's data; nothing where it is anything else."""
    return uri if uri.startswith(_PNG) else ""


def _figure(chart: Chart) -> Figure:
    return Figure(chart.title, chart.text, Markup(draw(chart)))  # noqa: S704 - made here


def _sketch(drawing: Drawing) -> Figure:
    return Figure(drawing.title, drawing.text, Markup(sketch(drawing)))  # noqa: S704 - made here


def _sentence(report: ScanReport) -> str:
    """Say what it comes to, and how sure that is."""
    if report.verdict == "clean":
        return (
            "Nothing stands out in what was examined. That is no proof: a trigger that no change "
            "tried resembles is not found."
        )
    if report.method == FILES:
        return _FILE_SENTENCES[report.verdict]
    if report.verdict == "inconclusive":
        return "The scan cannot tell: something that a verdict needs was not examined, or unclear."
    first = report.findings[0] if report.findings else None
    if first is None or first.target_class is None:
        return "There is reason not to use this model."
    names = class_names(report)
    victim, target = first.victim_class, class_label(first.target_class, names)
    source = "Any class" if victim is None else f"Class {class_label(victim, names)}"
    said = f"{source} is turned into class {target}."
    if first.score is None or first.threshold is None:
        return said
    score = "The score is surely over"
    if first.rule_id == RULE_UNLIKE:
        score = "In the reference models it is not. It stands out by"
    return f"{said} {score} {first.score:.2f}; over {first.threshold:.2f} is enough to be reported."


def _unseen(report: ScanReport, evidence: Sequence[Evidence]) -> Iterator[str]:
    """Say what was not examined, and what did not hold."""
    said = {finding.message for finding in report.findings}
    told = [reason for reason in report.reasons if reason not in said]
    told += [gap for one in evidence for gap in one.unexamined]
    told += report.dataset.notes if report.dataset else ()
    told += [f"Sandbox: {gap}." for gap in report.environment.sandbox.gaps]
    yield from dict.fromkeys(told)


def _flow_chart(flow: FlowProof, names: Sequence[str] | None) -> Chart:
    victim, target = (class_label(one, names) for one in (flow.victim_class, flow.target_class))
    return Chart(
        "lines",
        f"From weak to strong: {pair_label(flow.victim_class, flow.target_class, names)}",
        f"How much of class {victim} goes to {target} as a change grows: by the model as it was, "
        f"by the repaired one, and by the references, their mean. The change: {flow.concept}.",
        tuple(f"{grade.strength:g}" for grade in flow.grades),
        tuple((grade.before, grade.after, grade.references) for grade in flow.grades),
        marked=(1,),
        across="strength of the change",
        down=f"images of {victim} taken for {target}",
        series=("before", "after", "references"),
    )


def _repair_figures(summary: RepairSummary, names: Sequence[str] | None) -> Iterator[Figure]:
    if summary.before is None or summary.after is None:
        return
    for flow in summary.flows:
        if len(flow.grades) > 1:
            yield _figure(_flow_chart(flow, names))
    before, after = summary.before.accuracy_by_class, summary.after.accuracy_by_class
    change = {int(number): 100 * (after[number] - before[number]) for number in before}
    shown = sorted(change, key=lambda number: -abs(change[number]))[:_MOST_CLASSES]
    values = [change[number] for number in shown]
    yield _figure(
        Chart(
            "bars",
            "Change of clean accuracy, in points",
            "How the accuracy on clean images of each class changed, the largest change first; "
            f"from {min(values):+.1f} to {max(values):+.1f}.",
            tuple(class_label(number, names) for number in shown),
            tuple((value,) for value in values),
            tuple(row for row, value in enumerate(values) if value < 0),
        )
    )
