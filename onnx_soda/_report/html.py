"""A repair as one HTML page: what was measured before and after, on what images, which weights.

A report as one HTML page: no scripts, no requests, everything escaped.

What comes from a model or a data file is made printable first (`plain.printable`) and escaped by
Jinja; pictures are taken only as PNG data. The page's own policy forbids it everything but images
of its own and its style.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnx_soda._answers import RepairSummary
from onnx_soda._report.plots import bars, heat_map
from onnx_soda._report.repair_text import before_and_after, repair_facts
from onnx_soda._report.words import class_label, printable
from onnx_soda._results import (
    ConceptExample,
    ConceptPair,
    ConceptReport,
    ModelInfo,
    ScanReport,
    SodaEvidence,
)
from onnx_soda._rules import RULE_CONCEPT, RULES

Labeller = Callable[[int | None], str]
"""Names a class."""

_PNG = "data:image/png;base64,"


@dataclass(frozen=True)
class Figure:
    """A plot with its heading and what it says."""

    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class Gallery:
    """Images of a pair."""

    title: str
    of: str
    pair: ConceptPair
    reported: bool
    groups: tuple[tuple[str, tuple[ConceptExample, ...]], ...]


def render(template: str, **content: Any) -> str:
    """Fill a template; what is text in it is made printable and escaped."""
    environment = Environment(
        loader=PackageLoader("onnx_soda._report.html", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(picture=_picture, **content)


def _shown(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _picture(uri: str) -> str:
    """Return a picture's data; nothing where it is anything else."""
    return uri if uri.startswith(_PNG) else ""


def labeller(names: Sequence[str] | None) -> Labeller:
    """Return what names classes."""

    def label(number: int | None) -> str:
        return "?" if number is None else class_label(number, names)

    return label


def telling_pairs(concepts: ConceptReport) -> tuple[tuple[ConceptPair, ...], bool]:
    """Return the pairs to show, and whether they are reported; the first pair where none is.

    Those found by changing images come first: such images can be judged by eye.
    """
    reported = [pair for pair in concepts.pairs if pair.bound > concepts.threshold]
    if reported:
        return tuple(sorted(reported, key=lambda pair: pair.kind == "style")), True
    return concepts.pairs[:1], False


def galleries(concepts: ConceptReport, label: Labeller) -> Iterator[Gallery]:
    """Yield the images of the pairs to show."""
    pairs, reported = telling_pairs(concepts)
    for pair in pairs:
        ends = (pair.victim_class, pair.target_class)
        own = [
            e
            for e in concepts.examples
            if (e.victim_class, e.target_class, e.kind) == (*ends, pair.kind)
        ]
        victims = tuple(example for example in own if example.label == pair.victim_class)
        others = tuple(example for example in own if example.label != pair.victim_class)
        yield Gallery(
            f"{label(ends[0])} → {label(ends[1])}{', by a style' if pair.kind == 'style' else ''}",
            "the features half way" if pair.kind == "style" else "the image",
            pair,
            reported,
            (
                (f"Images of class {label(pair.victim_class)}", victims),
                ("Images of other classes", others),
            ),
        )


def draw_bars(
    title: str,
    text: str,
    names: Sequence[str],
    values: Sequence[float],
    marked: Sequence[bool] | None,
    limit: float | None,
) -> Figure:
    """Draw bars; see `plots.bars`."""
    drawn = bars(names, values, title, f"{title}. {text}", marked, limit)
    return Figure(title, text, Markup(drawn))  # noqa: S704 - made here


# Classes in a plot; the most abnormal ones first.
_MOST_CLASSES = 43


def to_html(report: ScanReport, command: str) -> str:
    """Return a report as a page.

    Args:
        report: The scan.
        command: How to repeat it, for people.
    """
    label = labeller(report.dataset.class_names if report.dataset else None)
    concepts, soda = report.evidence.concepts, report.evidence.soda
    return render(
        "report.html",
        report=report,
        command=command,
        label=label,
        rules=RULES,
        sentence=_sentence(report, label),
        galleries=list(galleries(concepts, label)) if concepts else [],
        figures=[
            *(_concept_figures(concepts, label) if concepts else ()),
            *(_soda_figures(report, soda, label) if soda else ()),
        ],
        unseen=list(_unseen(report)),
    )


def _sentence(report: ScanReport, label: Labeller) -> str:
    """Say what it comes to, and how sure that is."""
    if report.verdict == "clean":
        return (
            "Nothing stands out in what was examined. That is no proof: a trigger that no change "
            "tried resembles is not found."
        )
    if report.verdict == "inconclusive":
        return "The scan cannot tell: something that a verdict needs was not examined, or unclear."
    first = report.findings[0] if report.findings else None
    if first is None or first.target_class is None:
        return "There is reason not to use this model."
    victim, target = label(first.victim_class), label(first.target_class)
    said = f"Class {victim} is turned into class {target}."
    if first.score is None or first.threshold is None:
        return said
    return (
        f"{said} The score is surely over {first.score:.2f}, with 95 % confidence for all pairs of "
        f"classes together; {first.threshold:.2f} is enough to be reported."
        if first.rule_id == RULE_CONCEPT
        else f"{said} The statistic is {first.score:.2f}; over {first.threshold:.2f} is reported."
    )


def _concept_figures(concepts: ConceptReport, label: Labeller) -> Iterator[Figure]:
    for pair in telling_pairs(concepts)[0][:1]:
        if not pair.answers_under:
            continue
        count = 1 + max(max(row, column) for row, column, _ in pair.answers_under)
        table = np.zeros((count, count), np.int64)
        for row, column, images in pair.answers_under:
            table[row, column] = images
        victim, target = label(pair.victim_class), label(pair.target_class)
        text = (
            f"Under this change {pair.turned} of {pair.shown} images of class {victim} are taken "
            f"for {target}; of the other classes' images {pair.others_right_under:.0%} keep their "
            "class."
        )
        drawn = heat_map([label(i) for i in range(count)], table, text, "model's answer", "class")
        yield Figure("Answers under the change", text, Markup(drawn))  # noqa: S704 - made here


def _soda_figures(report: ScanReport, soda: SodaEvidence, label: Labeller) -> Iterator[Figure]:
    order = np.argsort(soda.anomaly_index, kind="stable")[:_MOST_CLASSES]
    names = [label(int(number)) for number in order]
    index = [soda.anomaly_index[number] for number in order]
    flagged = [value < -soda.threshold for value in index]
    text = (
        f"Anomaly index of each class, the most abnormal first. {sum(flagged)} of "
        f"{len(soda.pcc)} classes lie under -{soda.threshold:g}."
    )
    yield draw_bars("Anomaly index", text, names, index, flagged, -soda.threshold)
    pcc = [soda.pcc[number] for number in order]
    text = "How far the causal attribution of each class agrees with that of the others."
    yield draw_bars("Correlation of causal attributions (PCC)", text, names, pcc, flagged, None)
    for target, logits in list(soda.target_logit_by_source.items())[:1]:
        text = f"Mean score of class {label(int(target))} over clean images of each other class."
        names = [label(int(source)) for source in logits]
        yield draw_bars(
            "Target score by source class", text, names, list(logits.values()), None, None
        )
    target_class = _target(report, soda)
    neurons = soda.responsible.get(str(target_class), {})
    if neurons:
        text = f"The neurons that push most to class {label(target_class)}, of {soda.neurons}."
        names = [f"neuron {neuron}" for neuron in neurons]
        yield draw_bars("Causal attribution", text, names, list(neurons.values()), None, None)


def _target(report: ScanReport, soda: SodaEvidence) -> int:
    """Return the class that is reported as a target, or the most abnormal one."""
    found = (finding.target_class for finding in report.findings)
    named = next((number for number in found if number is not None), None)
    return int(np.argmin(soda.anomaly_index)) if named is None else named


def _unseen(report: ScanReport) -> Iterator[str]:
    """Say what was not examined, and what did not hold."""
    said = {finding.message for finding in report.findings}
    yield from (reason for reason in report.reasons if reason not in said)
    if report.evidence.concepts is None:
        yield "No changes of the image were tried."
    if report.evidence.soda is None:
        yield "The last layer's causal attribution was not analysed."
    if report.evidence.logic is None:
        yield "The graph's own logic was not examined."
    else:
        yield from report.evidence.logic.notes
    yield from report.dataset.notes if report.dataset else ()
    yield from (f"Sandbox: {gap}." for gap in report.environment.sandbox.gaps)


# How the heading looks.
_MOODS = {
    "repaired": "clean",
    "nothing to repair": "clean",
    "partly repaired": "inconclusive",
    "inconclusive": "inconclusive",
    "failed": "backdoor",
}


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
