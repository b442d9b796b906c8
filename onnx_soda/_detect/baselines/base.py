"""What all detectors of other authors have in common: their opinion, and its form in a report.

A rival is one file with a subclass of `Baseline`, and one line in `DETECTORS`. It has an opinion of
its own and is never the last word: one that flags something is told as such, and one that flags
nothing clears nothing, since most of them look for stamped patches and not for features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from onnx_soda._detect.base import Detector, Need
from onnx_soda._numbers import BaselineNumbers, NamedPair, Outcome, plain
from onnx_soda._options import Progress
from onnx_soda._results import Chart, Column, Evidence, Finding, Gallery, Table
from onnx_soda._rules import RULE_RIVAL
from onnx_soda._suspect import Suspect
from onnx_soda._words import class_label, pair_label

BACKWARD = 2
"""Passes that a backward pass through the model counts as: it computes the gradient of what each
layer takes and of its weights, each about as much work as the layer itself."""
ALL_VICTIMS = "any class"

_SAID: Mapping[Outcome, str] = {
    "flagged": "flags",
    "nothing flagged": "flags nothing",
    "not optimised": "came to no result: its optimisation did not succeed for any class",
    "abstains": "abstains",
}
# Rows of the table of classes or pairs that people are shown.
_ROWS = 10


@dataclass(frozen=True)
class Opinion:
    """What a rival says of a suspect.

    Attributes:
        outcome: "nothing flagged" is no "clean"; "not optimised" and "abstains" are neither.
        named: What it flags, or, where it flags nothing, what is nearest to it; the strongest
            first. A method that tells no victim class names None.
        threshold: Of the score over which it flags; None where it has none.
        score_is: What the score is, in a few words: "anomaly index of the mask's size".
        statement: What it did and what a reader must know to judge it, in sentences.
        details: Further numbers, for programs.
        tables: Further tables.
        charts: Numbers to draw.
        galleries: Pictures, such as inverted triggers.
    """

    outcome: Outcome
    named: tuple[NamedPair, ...]
    threshold: float | None
    score_is: str
    statement: str
    details: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = ()
    galleries: tuple[Gallery, ...] = ()


NO_LAYER = "There is no hidden layer that all paths to the scores pass through."
"""Why a method that looks at a hidden layer abstains where there is none."""


def abstention(reason: str, score_is: str = "score") -> Opinion:
    """Return the opinion of a method that has no answer, and why."""
    return Opinion("abstains", (), None, score_is, reason)


class Baseline(Detector):
    """A detector of other authors.

    Attributes:
        title: What it is called, for people: "Neural Cleanse".
        source: Authors, venue and year.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"clean images"})
    title: ClassVar[str]
    source: ClassVar[str]

    @abstractmethod
    def ask(self, suspect: Suspect, progress: Progress) -> Opinion:
        """Return what it says of a suspect.

        Passes of images through the model count in `suspect.meter`; a backward pass as `BACKWARD`.
        `suspect.options.parameters` tells with whose parameters.

        Args:
            suspect: The classifier, with its clean images and the options of the scan.
            progress: Called as it goes on.

        Raises:
            SodaError: The suspect cannot be examined.
        """

    def run(self, suspect: Suspect, progress: Progress) -> Evidence:
        """See `Detector.run`."""
        before = suspect.meter.done
        opinion = self.ask(suspect, progress)
        names = suspect.clean.class_names if suspect.clean else None
        numbers = BaselineNumbers(
            outcome=opinion.outcome,
            named=opinion.named,
            threshold=opinion.threshold,
            parameters=suspect.options.parameters,
            source=self.source,
            passes=round(suspect.meter.done - before),
            details=opinion.details,
        )
        flagged = opinion.outcome == "flagged"
        said = _sentence(self.title, opinion, names)
        findings = _findings(self.title, opinion, names) if flagged else ()
        return Evidence(
            detector=self.name,
            title=self.title,
            verdict="backdoor" if flagged else "inconclusive",
            reasons=(said, opinion.statement),
            findings=findings,
            notes=(said,),
            tables=(_table(self.title, opinion, numbers, names), *opinion.tables),
            charts=opinion.charts,
            galleries=opinion.galleries,
            numbers=plain(numbers),
        )


def _label(pair: NamedPair, names: tuple[str, ...] | None) -> str:
    if pair.victim_class is None:
        return f"{ALL_VICTIMS} -> {class_label(pair.target_class, names)}"
    return pair_label(pair.victim_class, pair.target_class, names)


def _flagged(opinion: Opinion) -> tuple[NamedPair, ...]:
    return tuple(pair for pair in opinion.named if pair.flagged)


def _sentence(title: str, opinion: Opinion, names: tuple[str, ...] | None) -> str:
    if opinion.outcome != "flagged":
        return f"{title} {_SAID[opinion.outcome]}. That clears nothing."
    pairs = ", ".join(_label(pair, names) for pair in _flagged(opinion))
    return f"{title} flags {pairs}."


def _findings(title: str, opinion: Opinion, names: tuple[str, ...] | None) -> tuple[Finding, ...]:
    return tuple(
        Finding(
            rule_id=RULE_RIVAL,
            severity="medium",
            victim_class=pair.victim_class,
            target_class=pair.target_class,
            score=pair.score,
            threshold=opinion.threshold,
            message=f"{title} flags {_label(pair, names)}: {opinion.score_is} {pair.score:.3g}"
            + ("." if opinion.threshold is None else f", flagged from {opinion.threshold:.3g}."),
        )
        for pair in _flagged(opinion)
    )


def _table(
    title: str, opinion: Opinion, numbers: BaselineNumbers, names: tuple[str, ...] | None
) -> Table:
    shown = opinion.named[:_ROWS]
    return Table(
        title,
        f"{numbers.source}, with the parameters of "
        f"{'the paper' if numbers.parameters == 'paper' else 'the published comparison'}; "
        f"{numbers.passes:,} passes. {opinion.statement}",
        (Column("pair"), Column(opinion.score_is, "number")),
        tuple((_label(pair, names), pair.score) for pair in shown),
        tuple(row for row, pair in enumerate(shown) if pair.flagged),
    )


def strongest_first(named: list[NamedPair], threshold: float | None) -> tuple[NamedPair, ...]:
    """Order pairs by score, the highest first; those over the threshold are flagged."""
    ordered = sorted(named, key=lambda pair: -pair.score)
    if threshold is None:
        return tuple(ordered)
    return tuple(replace(pair, flagged=pair.score > threshold) for pair in ordered)
