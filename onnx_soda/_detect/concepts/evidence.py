"""What interventions on the image showed, as evidence: its verdict, and what people see of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from onnx_soda._detect.concepts.battery import BUDGETS
from onnx_soda._detect.concepts.decide import decide_on_concepts
from onnx_soda._detect.concepts.experiment import (
    ConceptResult,
    examine_concepts,
    why_not_tried,
)
from onnx_soda._detect.concepts.judge import load_calibration
from onnx_soda._detect.concepts.pictures import answers_chart, galleries_of, pair_numbers
from onnx_soda._numbers import ConceptNumbers, PairNumbers, plain
from onnx_soda._options import Progress
from onnx_soda._results import Chart, Column, Evidence, Gallery, Table, Verdict
from onnx_soda._suspect import Suspect
from onnx_soda._words import class_label, pair_label

_ALONE = (
    "The suspect was compared with itself alone. With other models of the same classes "
    "(`references`) more of the backdoors are found; `onnx-soda twins` trains some on the clean "
    "images."
)
_TITLE = "Changes of images and of features"


def examine(name: str, suspect: Suspect, progress: Progress) -> Evidence:
    """Search for a change that turns one class into another, and return it as evidence.

    Args:
        name: Of the detector.
        suspect: The classifier.
        progress: Called as it goes on.

    Raises:
        SodaError: The model does not run, or an image cannot be read.
    """
    untried = why_not_tried(suspect.clean, suspect.classes or 0)
    found = None
    if untried is None and not suspect.examined.too_inaccurate:
        budget = BUDGETS[suspect.options.budget]
        found = examine_concepts(suspect, budget, partial(progress, "concepts tried"))
    names = suspect.clean.class_names if suspect.clean else None
    calibration = load_calibration()
    decision = decide_on_concepts(found, calibration, suspect.examined, names, untried)
    if found is None:
        unseen = ("No changes of the image were tried.",)
        return Evidence(name, _TITLE, decision.verdict, decision.reasons, unexamined=unseen)
    numbers = _numbers(found, calibration.threshold, suspect.options.budget)
    return Evidence(
        detector=name,
        title=_TITLE,
        verdict=decision.verdict,
        reasons=(*decision.reasons, *_alone(suspect, decision.verdict)),
        findings=decision.findings,
        tables=(_table(numbers, names),),
        charts=tuple(_charts(numbers, names)),
        galleries=tuple(_galleries(found, numbers, names)),
        numbers=plain(numbers),
    )


def _alone(suspect: Suspect, verdict: Verdict) -> tuple[str, ...]:
    """Say what reference models would add, where there are none and it matters."""
    return () if suspect.references or verdict == "backdoor" else (_ALONE,)


def _numbers(found: ConceptResult, threshold: float, budget: str) -> ConceptNumbers:
    return ConceptNumbers(
        pairs=tuple(map(pair_numbers, found.pairs)),
        threshold=threshold,
        budget=budget,
        concepts=found.tried,
        probe_images=found.probe_images,
        fit_images=found.fit_images,
        fewest_images=found.fewest_images,
        reference_accuracies=found.reference_accuracies,
    )


def _arrow(pair: PairNumbers, names: Sequence[str] | None) -> str:
    return pair_label(pair.victim_class, pair.target_class, names)


def _table(numbers: ConceptNumbers, names: Sequence[str] | None) -> Table:
    return Table(
        f"{_TITLE} ({numbers.concepts} tried)",
        "A pair scores where a change of the image, or another image's style half way through the "
        "network, turns clean images of one class into the other, a reference fitted to clean "
        "images alone does not follow, and the other classes stay what they are. Low and high are "
        f"the ends of a 90 % interval. Reported where it is surely over {numbers.threshold:g}: "
        "with 95 % confidence for all pairs of classes together. Tried on "
        f"{numbers.probe_images} images; reference fitted to {numbers.fit_images}.",
        (
            Column("pair"),
            Column("score", "signed"),
            Column("low", "signed"),
            Column("high", "signed"),
            Column("surely over", "signed"),
            Column("turned"),
            Column("others right", "share"),
            Column("change"),
        ),
        tuple(
            (
                _arrow(pair, names),
                pair.score,
                pair.low,
                pair.high,
                pair.bound,
                f"{pair.turned} of {pair.shown}",
                pair.others_right_under,
                pair.concept,
            )
            for pair in numbers.pairs
        ),
        tuple(row for row, pair in enumerate(numbers.pairs) if pair.bound > numbers.threshold),
    )


def _telling(numbers: ConceptNumbers) -> list[int]:
    """Return the places of the pairs to show: those reported, or the first where none is.

    Those found by changing images come first: such images can be judged by eye.
    """
    reported = [i for i, pair in enumerate(numbers.pairs) if pair.bound > numbers.threshold]
    if not reported:
        return list(range(len(numbers.pairs)))[:1]
    return sorted(reported, key=lambda place: numbers.pairs[place].kind == "style")


def _charts(numbers: ConceptNumbers, names: Sequence[str] | None) -> Iterator[Chart]:
    for place in _telling(numbers)[:1]:
        yield from answers_chart(numbers.pairs[place], names)


def _galleries(
    found: ConceptResult, numbers: ConceptNumbers, names: Sequence[str] | None
) -> Iterator[Gallery]:
    for place in _telling(numbers):
        pair, examples = numbers.pairs[place], found.pairs[place].examples
        yield from galleries_of(pair, examples, _description(pair, numbers, names), names)


def _description(pair: PairNumbers, numbers: ConceptNumbers, names: Sequence[str] | None) -> str:
    of = "the features half way" if pair.kind == "style" else "the image"
    reported = pair.bound > numbers.threshold
    first = (
        f"Under this change of {of}:"
        if reported
        else f"Nothing is reported. The strongest pair, under this change of {of}:"
    )
    also = ", ".join(class_label(label, names) for label in pair.also_turned)
    return (
        f"{first} {pair.concept}. {pair.turned} of {pair.shown} clean images turn, "
        f"{pair.turned_before} without it; a reference fitted to clean images alone gives the "
        f"target {pair.reference:.0%}. Of the other classes' images {pair.others_right_under:.0%} "
        f"keep their class ({pair.others_right_before:.0%} without it). Score {pair.score:.2f}, "
        f"90 % interval {pair.low:.2f} to {pair.high:.2f}."
        + (
            f" It turns images of {also}, too; which of these classes was meant is not certain."
            if also
            else ""
        )
    )
