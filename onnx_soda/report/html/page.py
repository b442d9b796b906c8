"""A report as one HTML page: no scripts, no requests, everything escaped.

What comes from a model or a data file is made printable first (`plain.printable`) and escaped by
Jinja; pictures are taken only as PNG data. The page's own policy forbids it everything but images
of its own and its style.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from markupsafe import Markup

from onnx_soda.report.html.common import (
    Figure,
    Labeller,
    draw_bars,
    galleries,
    labeller,
    render,
    telling_pairs,
)
from onnx_soda.report.html.plots import heat_map
from onnx_soda.report.schema import ConceptReport, ScanReport, SodaEvidence
from onnx_soda.rules import RULES
from onnx_soda.rules.behaviour import RULE_CONCEPT

__all__ = ["to_html"]

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
